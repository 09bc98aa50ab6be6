"""What a model folder was found to hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from cake_cli.spec import InputSpec


@dataclass(frozen=True)
class Held:
    """A module with its weights, and what the folder's configuration says of it."""

    module: nn.Module
    """In eval mode and frozen."""
    library: str
    architecture: str
    spec: InputSpec
    class_names: tuple[str, ...] | None
    same_as: str | None = None
    """What ``--student`` takes to build the same network, where that is known."""


def numbers(values: Any, default: Sequence[float]) -> tuple[float, ...]:
    """A list of numbers, or a default where it is missing."""
    if isinstance(values, (int, float)):
        return (float(values),)
    return tuple(float(value) for value in values) if isinstance(values, (list, tuple)) else tuple(default)


def names_in_order(table: Mapping[Any, Any] | Sequence[Any] | None, classes: int) -> tuple[str, ...] | None:
    """Class names by number, from a list or from a mapping of numbers; None unless there is one for each."""
    if isinstance(table, Mapping):
        numbered = {str(key): value for key, value in table.items()}
        table = [numbered[str(index)] for index in range(classes) if str(index) in numbered]
    if table is None or len(table) != classes:
        return None
    return tuple(str(name) for name in table)
