"""timm's architectures by the names and shapes of their weights, without timm: from a table made beforehand.

Building 1,200 architectures to compare each with a file takes minutes, even without memory for their weights.
The table `timm.txt` holds, for each, a hash of what the number of classes and of channels leaves alone.
`tests/models/weights/timm_table.py` writes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]
FILE = Path(__file__).with_name("timm.txt")
DIGITS = 12
"""Hexadecimal digits of a hash."""


class Entry(NamedTuple):
    """A row of the table."""

    name: str
    """As `timm.create_model` takes it."""
    tensors: int
    """How many there are, batch counters left out."""
    head: str
    """The layer whose weight has one row for each class."""
    stem: str
    """The first convolution, whose weight has one entry for each channel; ``-`` where that is unknown."""
    mark: str
    """The hash."""


def timm_names(shapes: Shapes) -> list[tuple[str, int, int]]:
    """The architectures of timm whose names and shapes of weights are those of a file.

    Args:
        shapes: of all weights, batch counters left out.

    Returns:
        Name, classes and channels of each; several where timm has architectures with the same weights that
        compute different things.
    """
    marks: dict[tuple[str, str], str] = {}
    found = []
    for entry in _table().get(len(shapes), ()):
        head, stem = shapes.get(f"{entry.head}.weight", ()), shapes.get(f"{entry.stem}.weight", (0, 3))
        if len(head) not in (2, 4):
            continue
        ends = (entry.head, entry.stem)
        if ends not in marks:
            marks[ends] = mark(shapes, entry)
        if marks[ends] == entry.mark:
            found.append((entry.name, head[0], stem[1]))
    return found


def mark(shapes: Shapes, entry: Entry) -> str:
    """The hash of names and shapes, whatever the number of classes and of channels."""
    lines = []
    for name, shape in sorted(shapes.items()):
        layer = name.rpartition(".")[0]
        sizes = shape[1:] if layer.startswith(entry.head) else shape
        if layer == entry.stem and len(sizes) > 1:
            sizes = (sizes[0], *sizes[2:])
        lines.append(f"{name} {sizes}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:DIGITS]


@cache
def _table() -> Mapping[int, tuple[Entry, ...]]:
    """The entries by their number of tensors."""
    table: dict[int, tuple[Entry, ...]] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, tensors, head, stem, digest = line.split()
            entry = Entry(name, int(tensors), head, stem, digest)
            table[entry.tensors] = (*table.get(entry.tensors, ()), entry)
    return table
