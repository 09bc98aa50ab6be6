"""What draws samples to where teacher and student differ: the closed loop's own term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from cake_cli.hardware import Hardware
from cake_cli.synthesis.terms import Candidates

NAME = "disagreement"
"""Of the term in an objective, and in a bank's record."""


@dataclass(frozen=True)
class Disagreement:
    """Minus the L1 distance between the teacher's and the student's probabilities, ``-sum_k |p_T - p_S|``.

    It lies in [-2, 0] and is 0 where both are equal. Adversarial samples for a student are those of Micaelli and
    Storkey ("Zero-shot Knowledge Transfer via Adversarial Belief Matching", NeurIPS 2019) and of Fang et al.
    ("Data-Free Adversarial Distillation", 2019), the latter with an L1 distance. A distance without bound, such as
    KL, drives samples to wherever the student's probability is smallest, and diverges.
    """

    student: Callable[[Tensor], Tensor]
    """Frozen, in eval mode, on the device: logits (N, K) of rows (N, *shape), rows independent of each other."""
    hardware: Hardware

    def __call__(self, candidates: Candidates) -> Tensor:
        """One number for each sample, (N,)."""
        with self.hardware.autocast():
            answers = self.student(candidates.inputs)
        distance = candidates.logits.softmax(dim=1) - answers.to(candidates.logits.dtype).softmax(dim=1)  # (N, K)
        return -distance.abs().sum(dim=1)
