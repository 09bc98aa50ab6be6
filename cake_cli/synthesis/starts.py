"""Dead starts: points at which the teacher has no gradient, so that no step would ever move them.

Deep inside a region where every unit of a ReLU network is off, or where a softmax has saturated, the logits are
constant. Such starting points are drawn again, each time from a wider distribution: where nine of ten draws are dead,
nine of ten more of the same would be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cake_cli.models.classifier import Classifier

WIDER = 1.25
"""How much wider the starting points of each redraw are than those of the one before."""


@dataclass(frozen=True)
class Revival:
    """What became of the starting points without a gradient."""

    dead: Tensor
    """(N,), bool, on the CPU: those that are left after all redraws."""
    redrawn: Tensor
    """(N,), bool, on the CPU: those that were drawn again, at least once."""
    passes: int
    """Rows that went forward and backward through the teacher for it."""

    def plus(self, rows: int) -> Revival:
        """With the passes of a step that was taken again."""
        return replace(self, passes=self.passes + rows)


def revive(
    starts: Tensor,
    suspects: Tensor,
    *,
    inputs_of: Callable[[Tensor], Tensor],
    teacher: Classifier,
    redraw: Callable[[int], Tensor],
    redraws: int,
    rows_per_pass: int,
) -> Revival:
    """Draws starting points again where the teacher has no gradient.

    A loss can have a gradient of zero where the teacher has one (a sample that is on its target already, to the last
    bit), so suspects are looked at once more: by the gradient of a sum of logits that no target can flatten.

    Args:
        starts: (N, *shape), on the CPU; dead ones are replaced, in place.
        suspects: (N,), bool, on the CPU: where the objective had no gradient.
        inputs_of: starting points to the teacher's inputs, on its device.
        teacher: on its device.
        redraw: new starting points (N, *shape) for an attempt, from 0; only those of dead ones are used.
        redraws: the most attempts.
        rows_per_pass: rows that go through the teacher together.
    """
    dead = suspects.nonzero().flatten()  # (M,)
    passes = len(dead)
    dead = dead[is_dead(teacher, inputs_of(starts[dead]), rows_per_pass)]
    redrawn = dead if redraws else dead[:0]
    for attempt in range(redraws):
        if not len(dead):
            break
        starts[dead] = redraw(attempt)[dead]
        passes += len(dead)
        dead = dead[is_dead(teacher, inputs_of(starts[dead]), rows_per_pass)]
    return Revival(_mask(dead, len(starts)), _mask(redrawn, len(starts)), passes)


def _mask(index: Tensor, count: int) -> Tensor:
    mask = torch.zeros(count, dtype=torch.bool)
    mask[index] = True
    return mask


def is_dead(teacher: Classifier, inputs: Tensor, rows_per_pass: int) -> Tensor:
    """Whether the teacher has no gradient at inputs (M, *shape): bool (M,), on the CPU."""
    found = []
    for rows in torch.split(inputs, rows_per_pass):
        leaf = rows.detach().requires_grad_()
        logits = teacher(leaf)
        weights = torch.linspace(1, 2, logits.shape[1], device=logits.device)  # no two equal: nothing cancels
        (gradient,) = torch.autograd.grad((logits.float() * weights).sum(), leaf)
        found.append(gradient.flatten(1).any(dim=1).logical_not().cpu())
    return torch.cat(found)
