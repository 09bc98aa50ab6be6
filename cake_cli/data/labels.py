"""Labels as class indices in the model's order, whatever the data call them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cake_cli.data.stored import Array
from cake_cli.errors import DataError, did_you_mean

_WHOLE = re.compile(r"-?\d{1,18}")
"""A whole number that 64 bits hold."""

_EXACT = 2.0**53
"""Whole floats up to here are the numbers that were written."""


@dataclass(frozen=True)
class ModelClasses:
    """The classes of the model that data must fit."""

    count: int
    """K."""
    names: tuple[str, ...] | None = None
    """K names in order, where the model's file states them."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """The class map: from the data's names, or labels as text, to the model's names or indices."""

    def __post_init__(self) -> None:
        if self.names is not None and len(self.names) != self.count:
            raise DataError(
                f"{len(self.names)} class names are stated ({_listed(self.names)}), the model has {self.count} classes",
                "state one name for every class, in the model's order",
            )


@dataclass(frozen=True)
class ClassOrder:
    """Where the classes of the data lie among those of the model."""

    index: dict[str, int]
    """From the data's name of a class to the model's index; names that are left out are absent."""
    names: tuple[str, ...] | None
    """K names in the model's order, where they are known."""
    notes: tuple[str, ...] = field(default=())
    """What the user should know about the match."""


def order_classes(found: Sequence[str], model: ModelClasses, *, what: str) -> ClassOrder:
    """Matches the names that the data give their classes with the model's: by name, else by position.

    By name it goes when every model class is among the data's, or every data class among the model's.

    Args:
        found: the data's names, in their own order.
        model: the model's classes.
        what: what messages call the data, as in "folders of ./val".

    Raises:
        DataError: if neither names nor their number agree.
    """
    for name in model.renamed:
        if name not in found:
            raise DataError(
                f"the class map names {name!r}, which is not among {what}", did_you_mean(name, found) or None
            )
    known = _known(model)
    index = {name: known[key] for name in found if (key := _key(model.renamed.get(name, name))) in known}
    if known and (len(index) == len(found) or len(set(index.values())) == model.count):
        return ClassOrder(index, model.names, _by_name(found, index, model.count, what))
    if model.renamed:
        missing = _listed(name for name in found if name not in index)
        raise DataError(f"the class map leaves open what these {what} are: {missing}", "map them as well")
    if len(found) != model.count:
        raise DataError(
            f"{what} name {len(found)} classes ({_listed(found)}), the model has {model.count}",
            "give data of the model's classes" + (f" ({_listed(model.names)}), or --class-map" if model.names else ""),
        )
    index = {name: position for position, name in enumerate(found)}
    return ClassOrder(index, model.names or tuple(found), _by_position(found, model.names, what))


def read_labels(raw: Array, model: ModelClasses, *, name: str) -> tuple[NDArray[np.int64], ClassOrder]:
    """Labels of an array as class indices.

    Args:
        raw: (N,) or (N, 1), integers, whole floats or text; or (N, K), one-hot.
        model: the model's classes; labels that are text are matched with their names, and so are integers where the
            names are numbers, all of the labels are among them, and they are not the indices themselves.
        name: what messages call the labels.

    Returns:
        (N,) in 0..K-1, and how they were matched.

    Raises:
        DataError: if labels are not labels, or lie outside 0..K-1.
    """
    values = raw[:, 0] if raw.ndim == 2 and raw.shape[1] == 1 else raw
    one_hot = (
        values.ndim == 2
        and values.shape[1] == model.count
        and np.isin(values, (0, 1)).all()
        and (values.sum(1) == 1).all()
    )
    if one_hot:
        values = values.argmax(axis=1)  # (N, K) -> (N,)
    if values.ndim != 1:
        raise DataError(f"{name} has shape {raw.shape}, not one label a row", "give labels of shape (N,)")
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind == "f" and _are_whole(values):
        values = values.astype(np.int64)
    if values.dtype.kind not in "biuU":
        raise DataError(f"{name} is {raw.dtype}, not class indices or names", "give integers from 0 to K-1")
    if values.dtype.kind == "U" or model.renamed:
        return _named_labels(values, model, name)
    numbers = {} if one_hot or values.dtype.kind == "b" else _numbers(model)
    if numbers:
        found, inverse = np.unique(values, return_inverse=True)
        if all(int(label) in numbers for label in found):
            return _numbered_labels(found, inverse, numbers, model, name)
    check_range(values, model.count, name)
    note = f"labels of {name} are read as indices: not all are among the class names ({_listed(model.names or ())})"
    return values.astype(np.int64), ClassOrder({}, model.names, (note,) if numbers else ())


def whole_number(text: str) -> int | None:
    """The whole number of at most 18 digits that a text is; None where it is none."""
    return int(text) if _WHOLE.fullmatch(text) else None


def check_range(values: Array, classes: int, name: str) -> None:
    """Checks that integers are class indices.

    Raises:
        DataError: if one lies outside 0..K-1.
    """
    if not len(values):
        return
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high < classes:
        return
    first = int(np.flatnonzero((values < 0) | (values >= classes))[0])
    fix = "give the set that the model was made for"
    if (low, high) == (1, classes):
        fix = "these labels count from 1, the model from 0: subtract 1"
    raise DataError(
        f"{name} has labels from {low} to {high} (row {first} is {int(values[first])}), "
        f"the model has {classes} classes, 0 to {classes - 1}",
        fix,
    )


def _named_labels(values: Array, model: ModelClasses, name: str) -> tuple[NDArray[np.int64], ClassOrder]:
    found, inverse = np.unique(values, return_inverse=True)
    names = [str(value) for value in found]
    order = order_classes(names, model, what=f"labels of {name}")
    strangers = [label for label in names if label not in order.index]
    if strangers:
        raise DataError(
            f"{name} has labels that the model does not know: {_listed(strangers)}",
            "name them as the model does, or map them with --class-map NAME=NAME",
        )
    indices = np.array([order.index[label] for label in names], dtype=np.int64)
    return indices[inverse], order


def _numbered_labels(
    found: Array, inverse: Array, numbers: Mapping[int, int], model: ModelClasses, name: str
) -> tuple[NDArray[np.int64], ClassOrder]:
    """Labels that are class names, which are numbers: where they could be indices as well, that is noted."""
    present = set(found.tolist())
    indices = np.array([numbers[int(label)] for label in found], dtype=np.int64)
    index = {str(number): position for number, position in numbers.items() if number in present}
    notes = _by_name(list(index), index, model.count, f"labels of {name}")
    if ((found >= 0) & (found < model.count)).all() and (indices != found).any():
        read = f"labels of {name} are read as the model's class names ({_listed(model.names or ())}), not as indices"
        notes = (read, *notes)
    return indices[inverse], ClassOrder(index, model.names, notes)


def _numbers(model: ModelClasses) -> dict[int, int]:
    """Class names that are numbers to indices; nothing where some are not, some repeat, or they are the indices."""
    stated = [whole_number(name.strip()) for name in model.names or ()]
    numbers = {number: position for position, number in enumerate(stated) if number is not None}
    return numbers if len(numbers) == model.count and list(numbers) != list(range(model.count)) else {}


def _are_whole(values: Array) -> bool:
    """Whether floats are whole numbers, none so large that what it stands for is not known."""
    return float(np.abs(values).max(initial=0)) < _EXACT and bool((values == np.floor(values)).all())


def _known(model: ModelClasses) -> dict[str, int]:
    """Names to indices; nothing where names repeat; plain indices too where a class map may use them."""
    known = {_key(name): position for position, name in enumerate(model.names or ())}
    if len(known) < len(model.names or ()):
        known = {}
    if model.renamed:
        known = {str(position): position for position in range(model.count)} | known
    return known


def _by_name(found: Sequence[str], index: Mapping[str, int], classes: int, what: str) -> tuple[str, ...]:
    notes = []
    extra = [name for name in found if name not in index]
    if extra:
        notes.append(f"{what} that the model does not know are left out: {_listed(extra)}")
    present = len(set(index.values()))
    if present < classes:
        notes.append(f"{what} cover {present} of the model's {classes} classes")
    if list(index.values()) != sorted(index.values()):
        notes.append(f"{what} are matched with the model's classes by name, not by position")
    return tuple(notes)


def _by_position(found: Sequence[str], class_names: Sequence[str] | None, what: str) -> tuple[str, ...]:
    notes = []
    if class_names is not None and [_key(name) for name in found] != [_key(name) for name in class_names]:
        differ = [i for i, name in enumerate(found) if _key(name) != _key(class_names[i])]
        shown = _listed((f"class {i} is {found[i]!r}, in the model {class_names[i]!r}" for i in differ), most=3)
        notes.append(
            f"{what} are not named as the model's classes ({shown}): they are matched by position; "
            "--class-map says otherwise"
        )
    elif class_names is None:
        numbers = [number for name in found if (number := whole_number(name)) is not None]
        if len(numbers) == len(found) and numbers != sorted(numbers):
            notes.append(
                f"{what} are numbers taken in the order of text ({', '.join(found[:4])}, …), as torchvision does"
            )
    return tuple(notes)


def _key(name: str) -> str:
    return name.strip().casefold()


def _listed(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
