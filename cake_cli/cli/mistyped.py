"""From what the parser of the command line refuses to a sentence, and what to type."""

from __future__ import annotations

import re
from difflib import get_close_matches

import typer

_PLAINLY = (
    (r"Value error, ", ""),
    (r"Input should be a valid integer.*", "it must be a whole number"),
    (r"Input should be a valid number.*", "it must be a number"),
    (r"Input should be (.*)", r"it must be \1"),
)
"""Words of pydantic, by which typer reads values, and those of a command line."""


def sentence(fault: typer.TyperException) -> str:
    """What is wrong, without a final period."""
    options = getattr(fault, "possibilities", None)
    if options is not None:
        return _no_such_option(str(fault), fault.option_name, options)  # type: ignore[attr-defined]
    told = str(getattr(fault, "format_message", fault.__str__)())
    for theirs, ours in _PLAINLY:
        told = re.sub(theirs, ours, told)
    return told.rstrip(".")


def help_of(fault: typer.TyperException) -> str:
    """The help page of the command that was typed; parsers do not always say which that is."""
    context = getattr(fault, "ctx", None)
    return "cake --help, or cake COMMAND --help" if context is None else f"{context.command_path} --help"


def _no_such_option(told: str, name: str, known: list[str]) -> str:
    """With the nearest option, dashes aside: all begin with those, and so look alike."""
    bare = {option.lstrip("-"): option for option in known}
    near = get_close_matches(name.lstrip("-"), bare, n=1)
    return f"{told}, did you mean {bare[near[0]]}?" if near else told
