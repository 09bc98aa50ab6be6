"""One gradient step on many samples side by side.

Everything that a step changes lives in a `Walk` and is changed in place, and nothing in it waits for the device:
so a step can be compiled, or captured once and replayed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.synthesis.objective import Objective
from cake_cli.synthesis.space import Space
from cake_cli.synthesis.statistics import in_order, listening
from cake_cli.synthesis.terms import Candidates
from cake_cli.synthesis.update import Update


@dataclass
class Walk:
    """The samples of a wave on their way, on the device."""

    inputs: Tensor
    """(N, *shape), normalised."""
    positions: Tensor
    """(N, *shape): what is moved. The same tensor as `inputs`, unless a `Space` makes the inputs from it."""
    targets: Tensor
    """(N,), the labels to reach."""
    step_sizes: Tensor
    """(N, 1, ...)."""
    update_state: dict[str, Tensor]
    """What the update rule keeps."""
    loss: Tensor
    """(N,), the objective before the latest step, without its priors."""
    alive: Tensor
    """(N,), whether the gradient at the latest step was not zero, priors left out."""
    steps_done: Tensor
    """(), int64."""
    first_bad: Tensor
    """(), int64: the first step at which the objective was not finite, or a number that no run reaches."""
    terms: dict[str, Tensor] = field(default_factory=dict)
    """Unweighted terms of the objective in the teacher's logits, (N,) each, before the latest step."""

    @staticmethod
    def begin(starts: Tensor, targets: Tensor, step_sizes: Tensor, update: Update, space: Space) -> Walk:
        """Samples (N, *shape) before their first step, all on one device."""
        device, count = starts.device, len(starts)
        positions, inputs = space.enter(starts)
        return Walk(
            inputs=inputs,
            positions=positions,
            targets=targets,
            step_sizes=step_sizes,
            update_state=update.begin(inputs),
            loss=torch.zeros(count, device=device),
            alive=torch.ones(count, dtype=torch.bool, device=device),
            steps_done=torch.zeros((), dtype=torch.int64, device=device),
            first_bad=torch.full((), torch.iinfo(torch.int64).max, device=device),
        )

    def restart(self, starts: Tensor, space: Space) -> None:
        """Back before the first step with other starting points (N, *shape), in the same memory."""
        positions, inputs = space.enter(starts)
        self.positions.copy_(positions)
        self.inputs.copy_(inputs)
        for state in self.update_state.values():
            state.zero_()
        self.loss.zero_()
        self.alive.fill_(True)
        self.steps_done.zero_()
        self.first_bad.fill_(torch.iinfo(torch.int64).max)


class Step(Protocol):
    """One gradient step on every sample of a walk, in place."""

    def __call__(self, walk: Walk) -> None:
        """Takes one step."""


@dataclass(frozen=True)
class PlainStep:
    """The step, operation by operation."""

    teacher: Classifier
    objective: Objective
    update: Update
    space: Space
    groups: int
    """G."""
    set_size: int
    """B."""
    hardware: Hardware
    rows_per_pass: int
    """Samples that go through the teacher together, a multiple of G or, where the objective needs whole sets, of B:
    it bounds memory."""

    def __call__(self, walk: Walk) -> None:
        """Takes one step."""
        parts = [
            self._teacher_gradient(rows, targets)
            for rows, targets in zip(
                torch.split(walk.inputs, self.rows_per_pass), torch.split(walk.targets, self.rows_per_pass), strict=True
            )
        ]
        loss, gradient, terms = parts[0] if len(parts) == 1 else _joined(parts)
        walk.loss.copy_(loss)
        walk.terms = terms
        bad = ~loss.isfinite().all()
        walk.first_bad.copy_(torch.where(bad, torch.minimum(walk.first_bad, walk.steps_done), walk.first_bad))
        walk.steps_done.add_(1)
        walk.alive.copy_(torch.linalg.vector_norm(gradient, math.inf, dim=tuple(range(1, gradient.dim()))) > 0)
        for weight, prior in self.objective.priors.values():
            prior.add_gradient(walk.inputs, weight, gradient)
        self.space.pull_back(walk.inputs, gradient)
        self.update.apply(walk.positions, gradient, walk.step_sizes, walk.update_state)
        self.space.settle(walk.positions, walk.inputs)

    def _teacher_gradient(self, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Objective in the logits (N,), its gradient (N, *shape), and terms (N,)."""
        leaf = rows.detach().requires_grad_()
        with listening(self.objective.layers) as heard, self.hardware.autocast():
            logits = self.teacher(leaf)
        loss, terms = self.objective.of_logits(
            Candidates(leaf, logits.float(), targets, self.groups, self.set_size, in_order(heard))
        )
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), gradient, terms


def _joined(
    parts: list[tuple[Tensor, Tensor, dict[str, Tensor]]],
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    losses, gradients, terms = zip(*parts, strict=True)
    return (
        torch.cat(losses),
        torch.cat(gradients),
        {name: torch.cat([part[name] for part in terms]) for name in terms[0]},
    )
