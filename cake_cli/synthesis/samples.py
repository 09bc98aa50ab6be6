"""Synthetic samples in memory."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """N samples with what the teacher says of each."""

    inputs: Tensor
    """(N, *shape) float32, normalised."""
    logits: Tensor
    """(N, K) float32: the teacher's, after the last step. Their softmax is the soft label."""
    targets: Tensor
    """(N,) int64: the label that each was drawn towards; -1 where there was none."""
    step_sizes: Tensor
    """(N,) float32: the step size of the set of each sample."""

    def __len__(self) -> int:
        return len(self.inputs)

    def select(self, index: Tensor) -> Samples:
        """The samples at positions `index` (M,) or where a mask (N,) is true."""
        return Samples(*(getattr(self, field.name)[index] for field in fields(self)))

    @staticmethod
    def join(parts: list[Samples]) -> Samples:
        """The samples of all parts, in order."""
        return Samples(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Samples)))
