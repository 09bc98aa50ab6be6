"""Held-out rows that lie in an array on disk."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cake_cli.data.fitting import Fitting
from cake_cli.data.labels import ClassOrder
from cake_cli.data.layout import find_layout, fit_rows
from cake_cli.data.stored import MOST_IN_ROW, StoredArray
from cake_cli.errors import DataError
from cake_cli.spec import InputSpec


class ArraySet:
    """A `HeldOut` over a `StoredArray`.

    Args:
        name: what the user called it.
        rows: (N, ...), on disk.
        labels: (N,) in 0..K-1.
        order: how the labels were matched.
        spec: the classifier's input.

    Raises:
        DataError: if rows and labels differ in number, there are none, or they do not fit the spec.
    """

    def __init__(
        self, name: str, rows: StoredArray, labels: NDArray[np.int64], order: ClassOrder, spec: InputSpec
    ) -> None:
        if rows.shape[0] != len(labels):
            raise DataError(
                f"{name} has {rows.shape[0]:,} rows but {len(labels):,} labels", "give one label for every row"
            )
        if not len(labels):
            raise DataError(f"{name} has no rows", "give a held-out set with at least one")
        self.name = name
        self.samples = len(labels)
        self.class_names = order.names
        self._rows = rows
        self._labels = labels
        self._order = order
        self._layout = find_layout(rows.shape, spec, rows.name)
        self._fitting = Fitting(spec, rows.name)
        _check_kind(rows, spec)
        next(self.batches(1))  # what does not fit shows now, not at the end of a run

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know."""
        return (*self._order.notes, *self._fitting.notes)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See `HeldOut.batches`."""
        start = 0
        fitting = max(1, MOST_IN_ROW // math.prod(self._rows.shape[1:]))  # rows that memory holds, however large
        for rows in self._rows.slices(min(batch_size, fitting)):
            values = torch.from_numpy(rows if rows.dtype == np.uint8 else rows.astype(np.float32))
            labels = torch.from_numpy(self._labels[start : start + len(rows)].copy())  # (N,)
            start += len(rows)
            yield fit_rows(values, self._layout, self._fitting), labels


def _check_kind(rows: StoredArray, spec: InputSpec) -> None:
    """Integers other than uint8 have no known scale, so images must not come as those."""
    if rows.dtype.kind not in "biuf":
        raise DataError(f"{rows.name} holds {rows.dtype}, not numbers", "give uint8 or float32")
    if rows.dtype.kind in "iu" and rows.dtype != np.uint8 and spec.is_image and spec.range not in (None, (0.0, 255.0)):
        raise DataError(
            f"{rows.name} is {rows.dtype}: what 1 means there is unknown",
            "give uint8 (0 to 255), or float in the input range",
        )
