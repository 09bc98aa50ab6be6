"""What a term of the objective sees of a step, and the terms that contrast nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Candidates:
    """The samples of one step, and what the teacher says of them."""

    inputs: Tensor
    """(N, *shape), normalised."""
    logits: Tensor
    """(N, K), float32."""
    targets: Tensor
    """(N,), the labels to reach."""
    groups: int
    """G: consecutive samples that form a row of distinct targets; N is a multiple of it."""
    set_size: int | None = None
    """B: consecutive samples that form a set; N is a multiple of it where a term looks at whole sets. One set of
    all N if not given."""
    heard: tuple[Tensor, ...] = ()
    """What the layers that the objective listens to were given, (N, C, ...) each, in their order."""

    @property
    def own_set_size(self) -> int:
        """B, or N where it is not given."""
        return len(self.logits) if self.set_size is None else self.set_size


Term = Callable[[Candidates], Tensor]
"""One number for each sample, (N,), of which the sum over samples is minimised."""


def classification(candidates: Candidates) -> Tensor:
    """Cross-entropy of each sample to its target, (N,)."""
    return F.cross_entropy(candidates.logits, candidates.targets, reduction="none")


def negative_entropy(candidates: Candidates) -> Tensor:
    """Minus the entropy of the mean prediction of each sample's set, ``sum_k p_k log p_k``: (N,).

    The reference implementation's ``entropy``, off there by default. It lies in [-log K, 0] and is least where the
    teacher's probabilities, averaged over the set, are the same for all classes.
    """
    size = candidates.own_set_size
    each = candidates.logits.log_softmax(dim=1).reshape(-1, size, candidates.logits.shape[1])  # (S, B, K)
    mean = each.logsumexp(dim=1) - math.log(size)  # log of the mean probabilities, (S, K): finite, and so its gradient
    return (mean.exp() * mean).sum(dim=1).repeat_interleave(size, output_size=len(candidates.logits))
