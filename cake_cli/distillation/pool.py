"""Samples that lie in memory-mapped files, read by position into memory that someone else owns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cake_cli.distillation.order import Grain

READ_BYTES = 8 * 2**20
"""What is read before it is copied on."""


@dataclass(frozen=True)
class Part:
    """The samples of one file, mapped and not yet read."""

    inputs: Tensor
    """(n, *shape) float32, normalised."""
    logits: Tensor
    """(n, K) float32, the teacher's."""
    labels: Tensor | None = None
    """(n,) int64, true classes; None for synthetic samples."""


@dataclass(frozen=True)
class Pool:
    """Samples of several parts, by position: some that were synthesized in rows, then all noise and real ones."""

    parts: tuple[Part, ...]
    rows: Tensor
    """(N,) int64, ascending: which samples of the parts, counted through."""
    group: int = 1
    """Rows of so many synthetic samples belong together."""
    paired: int = 0
    """How many of the first samples lie in such rows; the others are noise, or have a true label."""

    def __post_init__(self) -> None:
        if len(self.rows) and int(self.rows[-1]) >= int(self._starts[-1]):
            raise ValueError(f"there is no sample {int(self.rows[-1])}")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return tuple(self.parts[0].inputs.shape[1:])

    @property
    def classes(self) -> int:
        """K."""
        return self.parts[0].logits.shape[1]

    @property
    def row_bytes(self) -> int:
        """What a sample takes: its input, logits and label, 4 bytes a value."""
        return 4 * (self.parts[0].inputs[0].numel() + self.classes + 1)

    @property
    def has_labels(self) -> bool:
        """Whether any sample has a true label."""
        return any(part.labels is not None for part in self.parts)

    @property
    def grain(self) -> Grain:
        """How finely it is shuffled."""
        return Grain.of(self.row_bytes, self.group)

    def class_counts(self) -> Tensor:
        """How many samples the teacher takes for each class, (K,) int64; inputs are not read."""
        counts = torch.zeros(self.classes, dtype=torch.int64)
        first = torch.searchsorted(self.rows, self._starts)  # (parts + 1,)
        for number, part in enumerate(self.parts):
            local = self.rows[int(first[number]) : int(first[number + 1])] - self._starts[number]
            counts += part.logits[local].argmax(dim=1).bincount(minlength=self.classes)
        return counts

    def select(self, chosen: Tensor) -> Pool:
        """The samples where a mask (N,) is true; whole rows of them, where they lie in rows."""
        return Pool(self.parts, self.rows[chosen], self.group, int(chosen[: self.paired].sum()))

    @cached_property
    def _starts(self) -> Tensor:
        """(parts + 1,) int64: the first sample of each part, counted through, and the end."""
        return torch.tensor([0] + [len(part.inputs) for part in self.parts]).cumsum(0)

    def read(self, positions: Tensor) -> Iterator[tuple[slice, Part]]:
        """Reads samples piece by piece, each a copy in memory.

        Args:
            positions: (M,) int64, ascending, in 0..N-1; ascending so that files are read forward.

        Yields:
            which of the M positions a piece is, and its samples.
        """
        rows = self.rows[positions]
        first = torch.searchsorted(rows, self._starts)  # (parts + 1,)
        chunk = max(1, READ_BYTES // self.row_bytes)
        for number, part in enumerate(self.parts):
            for start in range(int(first[number]), int(first[number + 1]), chunk):
                piece = slice(start, min(start + chunk, int(first[number + 1])))
                local = rows[piece] - self._starts[number]
                labels = None if part.labels is None else part.labels[local]
                yield piece, Part(part.inputs[local], part.logits[local], labels)
