"""Which of many starting points are worth a label: those on which two states of the student differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cake_cli.hardware import Hardware

Network = Callable[[Tensor], Tensor]
"""Logits (N, K) of rows (N, *shape)."""
CANDIDATES = 4
"""How many starting points are drawn for each that is labelled."""


@dataclass(frozen=True)
class Choice:
    """A committee of two students, one the other's later self, that takes those on which it is least of one mind.

    A starting point counts by the L1 distance of their probabilities, ``sum_k |p_1 - p_2|`` in [0, 2] (Seung, Opper,
    Sompolinsky, "Query by Committee", COLT 1992, for committees that vote). What a student's own margin or entropy
    calls uncertain may be a boundary that it has right; where it has changed its mind since a round ago it has more to
    learn. The teacher is asked about what is chosen alone.
    """

    students: tuple[Network, Network]
    """Frozen, in eval mode, on the device of `hardware`."""
    hardware: Hardware

    def best(self, candidates: Tensor, count: int, rows_per_pass: int) -> Tensor:
        """Those that count most, in the order of the candidates.

        Args:
            candidates: (N, *shape), on the CPU.
            count: how many are taken.
            rows_per_pass: go through a student together: it bounds memory.
        """
        differ = torch.cat([self._apart(rows) for rows in torch.split(candidates, rows_per_pass)])  # (N,)
        chosen = differ.topk(count).indices
        return candidates[chosen.sort().values]

    def _apart(self, candidates: Tensor) -> Tensor:
        """How far the students' probabilities of the rows (n, *shape) lie apart: (n,), on the CPU."""
        rows = self.hardware.place_rows(candidates)
        with torch.no_grad(), self.hardware.autocast():
            one, other = (student(rows).float().softmax(dim=1) for student in self.students)  # (n, K)
        return (one - other).abs().sum(dim=1).cpu()
