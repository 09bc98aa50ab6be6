"""The same weights under other names: those of forks that only renamed what torchvision calls otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

Value = TypeVar("Value")
_KUANGLIU = ((re.compile(r"\.shortcut\."), ".downsample."), (re.compile(r"^linear\."), "fc."))


def spellings(names: Iterable[str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Ways to read the names of weights, the file's own first.

    Yields:
        A sentence (empty for the file's own names), and the new name of each.
    """
    names = list(names)
    yield "", {name: name for name in names}
    if "linear.weight" in names and any(name.startswith("layer4.") for name in names):
        renamed = {name: _replaced(name) for name in names}
        yield "names of kuangliu/pytorch-cifar read as torchvision's: shortcut is downsample, linear is fc", renamed
    first = {name.partition(".")[0] for name in names}
    if len(first) == 1 and all("." in name for name in names):
        part = first.pop()
        yield f"prefix {part}. stripped from the names", {name: name.removeprefix(f"{part}.") for name in names}


def respelled(values: Mapping[str, Value], names: Mapping[str, str]) -> dict[str, Value]:
    """A mapping under its new names, in the same order."""
    return {names[name]: value for name, value in values.items()}


def _replaced(name: str) -> str:
    for pattern, new in _KUANGLIU:
        name = pattern.sub(new, name)
    return name
