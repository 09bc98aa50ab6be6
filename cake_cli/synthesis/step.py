"""One gradient step on many samples side by side.

Everything that a step changes lives in a `Walk` and is changed in place, and nothing in it waits for the device:
so a step can be compiled, or captured once and replayed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.synthesis.estimated import Estimator
from cake_cli.synthesis.objective import Objective
from cake_cli.synthesis.space import Space
from cake_cli.synthesis.statistics import in_order, listening
from cake_cli.synthesis.terms import Candidates
from cake_cli.synthesis.update import Update

VALUES_IN_CACHE = 65_536
"""Input values that priors and update run over together on each core: with gradient and scratch under a megabyte."""


Found = tuple[Tensor, Tensor, dict[str, Tensor], Tensor]
"""Of N samples the objective in the logits (N,), its gradient (N, *shape), its terms (N,), and the logits (N, K)."""


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
    """(N,), whether the gradient at the latest step that looked was not zero, priors left out."""
    steps_done: Tensor
    """(), int64."""
    first_bad: Tensor
    """(), int64: the first step at which the objective was not finite, or a number that no run reaches."""
    logits: Tensor
    """(N, K), the teacher's before the latest step; (N, 0) where they are not kept."""
    terms: dict[str, Tensor] = field(default_factory=dict)
    """Unweighted terms of the objective in the teacher's logits, (N,) each, before the latest step."""
    streams: tuple[torch.Generator, ...] = ()
    """Of each set in turn, where directions are drawn."""

    @staticmethod
    def begin(
        starts: Tensor, targets: Tensor, step_sizes: Tensor, update: Update, space: Space, *, logits: int = 0
    ) -> Walk:
        """Samples (N, *shape) before their first step, all on one device; so many `logits` of each are kept."""
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
            logits=torch.zeros(count, logits, device=device),
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

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a step reads or changes, by name, but for the terms, which each step makes anew."""
        own = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in own.items() if isinstance(value, Tensor)} | {
            f"update_state.{name}": value for name, value in self.update_state.items()
        }

    def copy(self) -> Walk:
        """The same in other memory; tensors that are one stay one, as inputs and positions may be."""
        copies = {id(tensor): tensor.clone() for tensor in self.tensors().values()}
        own: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        state = {name: copies[id(tensor)] for name, tensor in self.update_state.items()}
        moved: dict[str, Any] = {name: copies[id(value)] for name, value in own.items() if isinstance(value, Tensor)}
        return replace(self, **moved, update_state=state, terms={})

    def copy_from(self, other: Walk) -> None:
        """Takes over the state of another walk of the same shapes, in the memory of this one."""
        theirs = other.tensors()
        for name, value in self.tensors().items():
            value.copy_(theirs[name])


class Step(Protocol):
    """One gradient step on every sample of a walk, in place."""

    def adopt(self, walk: Walk) -> Walk:
        """The walk to give to this step from now on: this one, or one in memory that the step always uses."""

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
    finds_dead: bool = False
    """Whether `Walk.alive` is found out, which takes a pass over the gradient."""
    estimator: Estimator | None = None
    """Estimates the teacher's part of the gradient from its outputs; None where it is computed."""

    def adopt(self, walk: Walk) -> Walk:
        """The same walk."""
        return walk

    def __call__(self, walk: Walk) -> None:
        """Takes one step."""
        unit = self.set_size if self.objective.whole_sets or self.estimator is not None else self.groups
        size = even_part(len(walk.inputs), self.rows_per_pass, unit)
        pairs = zip(torch.split(walk.inputs, size), torch.split(walk.targets, size), strict=True)
        if self.estimator is None:
            parts = [self._teacher_gradient(rows, targets) for rows, targets in pairs]
        else:
            streams = iter(walk.streams)
            parts = [self._estimated(rows, targets, self.estimator, streams) for rows, targets in pairs]
        loss, gradient, terms, logits = parts[0] if len(parts) == 1 else _joined(parts)
        walk.loss.copy_(loss)
        walk.terms = terms
        if walk.logits.shape[1]:
            walk.logits.copy_(logits)
        bad = ~loss.sum().isfinite()
        walk.first_bad.copy_(torch.where(bad, torch.minimum(walk.first_bad, walk.steps_done), walk.first_bad))
        walk.steps_done.add_(1)
        if self.finds_dead:
            walk.alive.copy_(torch.linalg.vector_norm(gradient, math.inf, dim=tuple(range(1, gradient.dim()))) > 0)
        rows = self._rows_in_cache(walk)
        for inputs, positions, part, sizes in zip(
            *(torch.split(tensor, rows) for tensor in (walk.inputs, walk.positions, gradient, walk.step_sizes)),
            strict=True,
        ):
            for weight, prior in self.objective.priors.values():
                prior.add_gradient(inputs, weight, part)
            self.space.pull_back(inputs, part)
            self.update.apply(positions, part, sizes, walk.update_state)
            self.space.settle(positions, inputs)

    def _rows_in_cache(self, walk: Walk) -> int:
        """Rows that priors and update run over together: on a CPU as many as its cache holds through all passes."""
        if self.hardware.device.type != "cpu" or walk.update_state:
            return len(walk.inputs)
        return max(1, VALUES_IN_CACHE * torch.get_num_threads() // walk.inputs[0].numel())

    def _teacher_gradient(self, rows: Tensor, targets: Tensor) -> Found:
        """What the teacher's own gradient gives."""
        leaf = rows.detach().requires_grad_()
        with listening(self.objective.layers) as heard, self.hardware.autocast():
            logits = self.teacher(leaf)
        loss, terms = self.objective.of_logits(
            Candidates(leaf, logits.float(), targets, self.groups, self.set_size, in_order(heard))
        )
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), gradient, terms, logits.detach().float()

    def _estimated(
        self, rows: Tensor, targets: Tensor, estimator: Estimator, streams: Iterator[torch.Generator]
    ) -> Found:
        """The same of whole sets, from outputs alone; what else the objective knows of the inputs is computed."""
        with torch.no_grad():
            logits = self.teacher(rows).float()
        leaf, logits = rows.detach().requires_grad_(), logits.requires_grad_()
        loss, terms = self.objective.of_logits(Candidates(leaf, logits, targets, self.groups, self.set_size))
        own, pull = torch.autograd.grad(loss.sum(), (leaf, logits), allow_unused=True)
        sets = [next(streams) for _ in range(len(rows) // self.set_size)]
        gradient = estimator.gradient(self.teacher, rows, torch.zeros_like(logits) if pull is None else pull, sets)
        return loss.detach(), gradient if own is None else gradient + own, terms, logits.detach()


def even_part(rows: int, most: int, unit: int) -> int:
    """Rows of each part when `rows` are cut into as few equal parts as have at most `most`, in multiples of `unit`.

    A last part of a few rows would cost almost as much as a full one.
    """
    parts = math.ceil(rows / most)
    return min(most, math.ceil(rows / parts / unit) * unit)


def _joined(parts: list[Found]) -> Found:
    losses, gradients, terms, logits = zip(*parts, strict=True)
    return (
        torch.cat(losses),
        torch.cat(gradients),
        {name: torch.cat([part[name] for part in terms]) for name in terms[0]},
        torch.cat(logits),
    )
