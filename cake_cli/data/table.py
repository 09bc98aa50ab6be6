"""Tables as text: one row a line, one column a feature, one for the label."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from cake_cli.data.fitting import Fitting
from cake_cli.data.labels import ModelClasses, read_labels, whole_number
from cake_cli.data.texts import DistinctTexts
from cake_cli.errors import DataError, did_you_mean
from cake_cli.spec import InputSpec

_DELIMITERS = ",;\t"


class _Pixels:
    """Whether numbers of images are bytes: whole, from 0 to 255, and some in the upper half."""

    def __init__(self) -> None:
        self._whole, self._most = True, 0.0

    def look_at(self, features: list[float]) -> None:
        """Takes a row into account."""
        if self._whole:
            self._whole = min(features) >= 0 and all(value.is_integer() for value in features)
            self._most = max(self._most, *features)

    @property
    def are_bytes(self) -> bool:
        """What all rows so far say."""
        return self._whole and 127 < self._most <= 255


class TableSet:
    """A CSV file as a `HeldOut`; the file is read through once to check it, then again in every pass.

    The first line is a header unless its features are numbers, other than 0, 1, 2 ..., and its label is one, too, or
    text as in the next line. Cells are raw values, in the spec's range; pixels
    that are whole numbers up to 255 are bytes, as such tables of images mostly have them, and scaled to it.

    Args:
        path: of the file; comma, semicolon or tab between cells, UTF-8.
        spec: the classifier's input; D, or C*H*W, feature columns are expected.
        model: the classifier's classes; labels that are text are matched with their names.
        label_column: name of the label's column, or its number from 0; the last where None.

    Raises:
        DataError: if the table is malformed (row and column are named) or does not fit the model.
    """

    def __init__(self, path: Path, spec: InputSpec, model: ModelClasses, *, label_column: str | None = None) -> None:
        self.name = str(path)
        self._path = path
        self._fitting = Fitting(spec, self.name)
        self._delimiter, self._columns, second = self._read_head()
        self._has_header = self._is_header(second, label_column)
        self._label = self._find_label(label_column)
        labels, pixels = [], _Pixels()
        for features, label in self._rows():
            labels.append(label)
            pixels.look_at(features)
        self._type = torch.uint8 if spec.is_image and pixels.are_bytes else torch.float32
        if not labels:
            raise DataError(f"{path} has no rows", "give a held-out set with at least one")
        column = f"{path} column {self._title(self._label)}"
        if all(map(_is_number, labels)) and not _are_names(set(labels), model):
            self._labels, order = read_labels(np.array([float(label) for label in labels]), model, name=column)
        else:
            distinct = DistinctTexts(column)
            numbers = [distinct.number(label) for label in labels]
            indices, order = read_labels(np.array(distinct.texts), model, name=column)
            self._labels = indices[numbers]
        self.samples = len(labels)
        self.class_names = order.names
        self._order_notes = order.notes
        next(self.batches(1))  # a misfit shows now

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know."""
        header = () if self._has_header else (f"{self.name} has no header line; every line is a row",)
        scaled = self._type == torch.uint8
        bytes_ = (f"{self.name} has whole numbers up to 255, read as bytes of images",) if scaled else ()
        return (*header, *bytes_, *self._order_notes, *self._fitting.notes)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See `HeldOut.batches`."""
        rows = self._rows()
        start = 0
        while chunk := [features for features, _ in islice(rows, batch_size)]:
            labels = torch.from_numpy(self._labels[start : start + len(chunk)].copy())  # (N,)
            start += len(chunk)
            yield self._fitting.vectors(torch.tensor(chunk).to(self._type)), labels  # (N, *spec.shape)

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Lines that are not blank, with their numbers from 1."""
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, delimiter=self._delimiter)
                for cells in reader:
                    if cells:
                        yield reader.line_num, cells
        except UnicodeDecodeError as fault:
            raise DataError(f"{self.name} is not UTF-8 text (byte {fault.start})", "save it as UTF-8") from fault
        except csv.Error as fault:
            raise DataError(f"{self.name} is not a CSV file ({fault})", "export the table again") from fault

    def _rows(self) -> Iterator[tuple[list[float], str]]:
        """Features and label of every row."""
        for line, cells in islice(self._lines(), 1 if self._has_header else 0, None):
            if len(cells) != len(self._columns):
                raise DataError(
                    f"{self.name} line {line} has {len(cells)} cells, the first has {len(self._columns)}",
                    "look for a missing cell, or a delimiter inside one",
                )
            label = cells.pop(self._label).strip()
            try:
                features = [float(cell) for cell in cells]
            except ValueError:
                self._blame(line, cells)
            if not math.isfinite(sum(features)):
                self._blame(line, cells)
            if not label:
                raise DataError(f"{self.name} has no label in line {line}", "fill or remove that row")
            yield features, label

    def _blame(self, line: int, cells: list[str]) -> NoReturn:
        """Names the first cell that is not a finite number."""
        position = next((i for i, cell in enumerate(cells) if not _is_number(cell)), 0)
        title = self._title(position + (position >= self._label))
        raise DataError(
            f"{self.name} has {cells[position]!r} in line {line}, column {title}, where a finite number should be",
            "fill or remove that row; if that column is the label, name it with --label-column",
        )

    def _read_head(self) -> tuple[str, list[str], list[str]]:
        """The delimiter, and the cells of the first two lines."""
        self._delimiter = ","
        with self._path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            line = file.readline(1 << 20)
        self._delimiter = max(_DELIMITERS, key=line.count)
        head, second, *_ = [[cell.strip() for cell in cells] for _, cells in islice(self._lines(), 2)] + [[], []]
        if len(head) < 2:
            raise DataError(
                f"{self.name} has no columns of features and label", "give a table with at least two columns"
            )
        return self._delimiter, head, second

    def _is_header(self, second: list[str], label_column: str | None) -> bool:
        """Whether the first line names the columns: labels may be text, so that a row is not all numbers either."""
        head, number = self._columns, None if label_column is None else whole_number(label_column)
        if label_column in head:
            return True
        label = len(head) - 1 if number is None or number >= len(head) else number
        features = [cell for position, cell in enumerate(head) if position != label]
        if not all(map(_is_number, features)):
            return True
        if _is_number(head[label]):
            return False
        counted = [str(index) for index in range(len(head))]  # as pandas names columns that have no name
        return features in (counted[:-1], counted[1:]) or (len(second) > label and _is_number(second[label]))

    def _find_label(self, column: str | None) -> int:
        if column is None:
            return len(self._columns) - 1
        if self._has_header and column in self._columns:
            return self._columns.index(column)
        number = whole_number(column)
        if number is not None and 0 <= number < len(self._columns):
            return number
        known = ", ".join(self._columns[:8]) if self._has_header else f"0 to {len(self._columns) - 1}, without names"
        raise DataError(
            f"{self.name} has no column {column!r}; it has {known}",
            did_you_mean(column, self._columns) or "--label-column with one of those",
        )

    def _title(self, position: int) -> str:
        return repr(self._columns[position]) if self._has_header else str(position)


def _are_names(labels: set[str], model: ModelClasses) -> bool:
    """Whether labels that could be numbers are, to the letter, what the class map or the model calls its classes."""
    if model.renamed:
        return set(model.renamed) <= labels
    names = model.names or ()
    return labels <= set(names) and any(whole_number(name) is None for name in names)


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
