"""``--class-map``: what the data call a class, and what the model calls it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cake_cli.errors import UsageError

_FORM = "--class-map cat=tabby,dog=0, or a file with one NAME=NAME a line, or of JSON"


def read_class_map(given: str | None) -> dict[str, str]:
    """A class map as it is typed.

    Args:
        given: pairs with commas between, as in ``cat=tabby,dog=0``, or a file: one pair a line (blank lines and those
            that begin with ``#`` do not count), or one JSON object. None is an empty map.

    Returns:
        From the data's names of classes, or labels as text, to the model's names or indices.

    Raises:
        UsageError: if it is neither, or names a class twice.
    """
    if given is None:
        return {}
    path = Path(given).expanduser()
    try:
        is_file = os.path.isfile(path)  # noqa: PTH113  (a list of pairs may be longer than the name of any file)
        text = path.read_text(encoding="utf-8-sig") if is_file else ""
    except (OSError, UnicodeDecodeError, ValueError) as fault:
        raise UsageError(f"--class-map {given} cannot be read: {fault}", _FORM) from fault
    if not is_file and "=" not in given:
        raise UsageError(f"--class-map {given} is neither a file nor a list of NAME=NAME", _FORM)
    if text.lstrip().startswith("{"):
        return _from_json(given, text)
    lines = (line.strip() for line in text.splitlines()) if is_file else given.split(",")
    return _unique(given, [_pair(given, line) for line in lines if line and not line.startswith("#")])


def _pair(given: str, text: str) -> tuple[str, str]:
    name, sign, meant = (part.strip() for part in text.partition("="))
    if not sign or not name or not meant:
        raise UsageError(f"{text!r} in --class-map {given} is not NAME=NAME", _FORM)
    return name, meant


def _from_json(given: str, text: str) -> dict[str, str]:
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError) as fault:
        raise UsageError(f"--class-map {given} is not readable as JSON: {fault}", _FORM) from fault
    if not all(isinstance(meant, str | int) and not isinstance(meant, bool) for _, meant in pairs):
        raise UsageError(f"--class-map {given} maps to something other than names and indices", _FORM)
    return _unique(given, [(name, str(meant)) for name, meant in pairs])


def _unique(given: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"--class-map {given} maps {twice!r} twice", "keep one of the two")
    if not found:
        raise UsageError(f"--class-map {given} is empty", _FORM)
    return found
