"""JSON that others could have written: read without surprise, and held against the form that it must have."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

LARGEST = 2**63 - 1
"""Whole numbers beyond it count nothing that fits into a machine."""
SHOWN = 60
"""Characters of a value that does not fit which a message shows."""
ABSENT = type("Absent", (), {"__repr__": lambda _: "absent"})()

Form = Any
"""What a value must be.

A type (`float` takes whole numbers, too; no number is infinite, beyond `LARGEST`, true or false), None, a tuple of
forms of which one must fit, a list of one form for each entry, or a mapping: of texts to forms, where a name that ends
in ``?`` may be absent and others may be there, or of `str` to the form of every value.
"""


def parse_json(text: str | bytes) -> Any:
    """A JSON text as plain values.

    Raises:
        ValueError: if it is no JSON, not UTF-8, nested too deeply to be honest, or holds NaN or an infinity.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(file: Path) -> Any:
    """The content of a JSON file; raises as `parse_json`, and `OSError`."""
    return parse_json(file.read_bytes().decode("utf-8"))


def require_form(value: Any, form: Form) -> None:
    """Holds a value against a form.

    Args:
        value: as `parse_json` gives it.
        form: what it must be.

    Raises:
        ValueError: with the place of the first misfit.
    """
    misfit = _misfit(value, form)
    if misfit is not None:
        place, found, wanted = misfit
        shown = repr(found) if len(repr(found)) <= SHOWN else repr(found)[: SHOWN - 3] + "..."
        raise ValueError(f"{place.lstrip('.') or 'it'} is {shown}, not {_in_words(wanted)}")


_Misfit = tuple[str, Any, Form]
"""Where, what is there, and what should be."""


def _misfit(value: Any, form: Form) -> _Misfit | None:
    if isinstance(form, type):
        fits = _is_number(value, form) if form in (int, float) else isinstance(value, form)
        return None if fits else ("", value, form)
    if isinstance(form, tuple):
        found = [_misfit(value, each) for each in form]
        deepest = max(found, key=lambda misfit: len(misfit[0]) if misfit else 0)
        return None if None in found else deepest if deepest and deepest[0] else ("", value, form)
    if isinstance(form, list) and isinstance(value, list):
        return _first(("[{}]", key, each, form[0]) for key, each in enumerate(value))
    if isinstance(form, Mapping) and isinstance(value, Mapping):
        return _first((".{}", key, value.get(key, ABSENT), inner) for key, inner in _asked(value, form))
    return None if form is None and value is None else ("", value, form)


def _asked(value: Mapping[str, Any], form: Mapping[Any, Form]) -> Iterator[tuple[str, Form]]:
    """The names that a value must or does have, and the form of each."""
    every = next((inner for name, inner in form.items() if name is str), ABSENT)
    if every is not ABSENT:
        yield from ((name, every) for name in value)
        return
    for name, inner in form.items():
        bare = name.removesuffix("?")
        if bare == name or bare in value:
            yield bare, inner


def _first(entries: Iterable[tuple[str, Any, Any, Form]]) -> _Misfit | None:
    """The first of some entries that does not fit, with its place."""
    for place, key, value, form in entries:
        misfit = _misfit(value, form)
        if misfit is not None:
            return place.format(key) + misfit[0], misfit[1], misfit[2]
    return None


def _is_number(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if isinstance(value, int):
        return -LARGEST <= value <= LARGEST
    return kind is float and math.isfinite(value)


def _in_words(form: Form) -> str:
    if isinstance(form, tuple):
        return " or ".join(_in_words(each) for each in form)
    if isinstance(form, Mapping):
        return "an object"
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "an object"}
    return "null" if form is None else "a list" if isinstance(form, list) else words.get(form, str(form))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
