"""Figures as text, the same way everywhere in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cake_cli.text import printable

THIN = "\u202f"
"""Narrow no-break space, between a number and its unit."""
NOTHING = "–"
"""What stands where there is no figure."""


def dig(tree: Any, *keys: str) -> Any:
    """The entry of nested mappings, or None where any level lacks it."""
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def bounds(value: Any) -> tuple[float, float] | None:
    """The ends of an interval, or None for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)


def percent(value: Any, digits: int = 1) -> str:
    """A share as ``97.2 %``."""
    share = number(value)
    return NOTHING if share is None else f"{100 * share:.{digits}f}{THIN}%"


def interval(value: Any, digits: int = 1) -> str:
    """An interval of shares as ``95.6 to 98.4 %``; empty where there is none."""
    ends = bounds(value)
    return "" if ends is None else f"{100 * ends[0]:.{digits}f} to {100 * ends[1]:.{digits}f}{THIN}%"


def count(value: Any) -> str:
    """A whole number as ``12,345``."""
    found = number(value)
    return NOTHING if found is None else f"{found:,.0f}"


def plural(value: Any, noun: str) -> str:
    """``1 sample``, ``12,345 samples``."""
    return f"{count(value)} {noun}" + ("" if number(value) == 1 else "s")


def figure(value: Any, digits: int = 3) -> str:
    """A number of any size, to some significant digits."""
    found = number(value)
    return NOTHING if found is None else f"{found:.{digits}g}"


def duration(value: Any) -> str:
    """Seconds as ``1 h 02 min``, ``1 min 40 s``, ``12.3 s``."""
    seconds = number(value)
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f}{THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{THIN}min {rest:02d}{THIN}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{THIN}h {minutes:02d}{THIN}min"


def class_labels(names: Any, classes: int) -> tuple[str, ...]:
    """A text for each of K classes: its name where there are K names, else its number."""
    if isinstance(names, Sequence) and not isinstance(names, str) and len(names) == classes:
        return tuple(printable(str(name)) for name in names)
    return tuple(str(index) for index in range(classes))


def network(record: Mapping[str, Any]) -> str | None:
    """The student's architecture, of one's own code ``file.py:function`` without the folder; how many, of several."""
    if isinstance(several := dig(record, "students"), Mapping):
        return f"{len(several)} students"
    name = dig(record, "student", "architecture")
    return str(name).rpartition("/")[2] if name and ".py:" in str(name) else name
