"""Many sets synthesized side by side, each with its own step size and its own random stream."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cake_cli.config import Init
from cake_cli.errors import RunError, UsageError
from cake_cli.events import Stage
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.synthesis.noise import add_langevin, draw_labels, draw_start, stream
from cake_cli.synthesis.objective import Objective
from cake_cli.synthesis.samples import Samples
from cake_cli.synthesis.step import PlainStep, Step, Walk
from cake_cli.synthesis.update import Sgd, Update

PAPERS_UPDATE = Sgd()
REPORT_EVERY = 16
"""Steps between two looks at the loss, each of which waits for the device."""


@dataclass(frozen=True)
class SetPlan:
    """How many sets there are, how large, and how many run side by side."""

    sets: int
    """S."""
    rows: int
    """R, rows of a set."""
    groups: int
    """G, samples of a row, all of different classes."""
    at_once: int
    """Sets side by side, which also share a shard of the bank."""

    @property
    def set_size(self) -> int:
        """B = R · G samples."""
        return self.rows * self.groups

    @property
    def samples(self) -> int:
        """S · B."""
        return self.sets * self.set_size

    @property
    def waves(self) -> list[range]:
        """The sets of each wave, in order."""
        return [range(first, min(first + self.at_once, self.sets)) for first in range(0, self.sets, self.at_once)]


def plan_sets(
    *,
    samples: int,
    classes: int,
    groups: int | None = None,
    set_size: int | None = None,
    at_once: int | None = None,
    rows_at_once: int = 500,
) -> SetPlan:
    """Cuts a number of samples into sets.

    Args:
        samples: how many are wanted; rounded up to whole sets.
        classes: K of the teacher.
        groups: G; 10 or K by default, whichever is less.
        set_size: B; the multiple of G nearest below 100 by default.
        at_once: sets side by side; as many as hold `rows_at_once` samples by default.
        rows_at_once: samples side by side.

    Raises:
        UsageError: if G exceeds K or does not divide B.
    """
    groups = min(10, classes) if groups is None else groups
    if groups > classes:
        raise UsageError(
            f"a row of {groups} different classes cannot be drawn from {classes}",
            f"--set synthesis.groups={min(10, classes)}",
        )
    set_size = groups * max(1, 100 // groups) if set_size is None else set_size
    if set_size % groups:
        raise UsageError(
            f"a set of {set_size} samples cannot be cut into rows of {groups}",
            f"--set synthesis.set_size={groups * max(1, set_size // groups)}",
        )
    sets = math.ceil(samples / set_size)
    at_once = max(1, rows_at_once // set_size) if at_once is None else at_once
    return SetPlan(sets=sets, rows=set_size // groups, groups=groups, at_once=min(at_once, sets))


@dataclass(frozen=True)
class Passes:
    """What the teacher was asked, counted in samples."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.backward + other.backward)


@dataclass(frozen=True)
class Wave:
    """The finished samples of some sets."""

    sets: range
    samples: Samples
    """On the CPU, set by set."""
    passes: Passes
    terms: dict[str, float]
    """Mean of each term of the objective at the last step, unweighted."""


@dataclass(frozen=True)
class Engine:
    """Everything that decides what the samples of a set are.

    Starting points, labels and Langevin noise of a set come from streams of (seed, set), so a set is the
    same in whatever wave it runs, up to the rounding of the teacher's batched arithmetic.
    """

    teacher: Classifier
    """On the device of `hardware`."""
    objective: Objective
    """What is minimised; not used with zero steps."""
    plan: SetPlan
    step_sizes: tuple[float, ...]
    """One for each set of the plan."""
    steps: int
    """Gradient steps; 0 leaves the starting points, which the teacher then labels."""
    langevin: bool
    """Whether Langevin noise is added after each step."""
    seed: int
    hardware: Hardware
    rows_per_pass: int
    """Samples that go through the teacher together, a multiple of G: it bounds memory."""
    init: Init = "normal"
    """How starting points are drawn."""
    update: Update = PAPERS_UPDATE
    """How a gradient moves a sample."""

    def wave(self, sets: range, stage: Stage) -> Wave:
        """Synthesizes some sets side by side, telling `stage` of progress in samples.

        Raises:
            RunError: if the objective is not finite, with the step.
        """
        own_sizes = [self.step_sizes[index] for index in sets]
        starts, labels = self._draw(sets)
        walk = self._begin(starts, labels, own_sizes)
        noise = [stream(self.seed, index, "langevin", self.hardware.device) for index in sets] if self.langevin else []
        take_step = self.step()
        for step in range(self.steps):
            take_step(walk)
            if noise:
                add_langevin(walk.inputs, own_sizes, noise)
            looked = step % REPORT_EVERY == REPORT_EVERY - 1
            stage.advance(len(starts) / self.steps, **({"loss": float(walk.loss.mean())} if looked else {}))
        logits, terms = self._look(walk)
        if self.steps == 0:
            stage.advance(len(starts))
        return Wave(
            sets=sets,
            samples=Samples(
                inputs=walk.inputs.cpu().contiguous(),
                logits=logits.cpu(),
                targets=labels if self.steps else torch.full_like(labels, -1),
                step_sizes=walk.step_sizes.flatten().cpu(),
            ),
            passes=Passes(forward=len(starts) * (self.steps + 1), backward=len(starts) * self.steps),
            terms={name: float(value.mean()) for name, value in terms.items()},
        )

    def step(self) -> Step:
        """One gradient step on a walk."""
        return PlainStep(self.teacher, self.objective, self.update, self.plan.groups, self.hardware, self.rows_per_pass)

    def _begin(self, starts: Tensor, labels: Tensor, own_sizes: list[float]) -> Walk:
        """A walk on the device from starting points (P·B, *shape)."""
        eta = torch.tensor(own_sizes).repeat_interleave(self.plan.set_size)  # (P·B,)
        eta = eta.reshape(-1, *(1,) * len(self.teacher.spec.shape))
        device = self.hardware.device
        return Walk.begin(self.hardware.place_rows(starts), labels.to(device), eta.to(device), self.update)

    def _look(self, walk: Walk) -> tuple[Tensor, dict[str, Tensor]]:
        """The teacher's logits (N, K) at the end of a walk, and the parts of the objective (N,) by name.

        Raises:
            RunError: if anything on the way or now is not finite.
        """
        with torch.no_grad():
            logits = torch.cat([self.teacher(part).float() for part in torch.split(walk.inputs, self.rows_per_pass)])
            priors = {name: prior.value(walk.inputs) for name, (_, prior) in self.objective.priors.items()}
        first_bad, done = int(walk.first_bad), int(walk.steps_done)
        if first_bad < done or not bool(walk.inputs.isfinite().all() & logits.isfinite().all()):
            eta = float(walk.step_sizes.max())
            raise RunError(
                f"the synthesis objective is not finite at step {min(first_bad, done - 1)} (step size {eta:.1e})",
                f"--set synthesis.step_size={eta / 10:.0e}, or a smaller weight; --precision fp32 if it was not",
            )
        return logits, walk.terms | (priors if walk.terms else {})

    def _draw(self, sets: range) -> tuple[Tensor, Tensor]:
        """Starting points (P·B, *shape) and target labels (P·B,) of the sets."""
        starts, labels = [], []
        for index in sets:
            generator = stream(self.seed, index, "start")
            starts.append(draw_start(self.teacher.spec.shape, self.plan.set_size, generator, self.init))
            rows = draw_labels(
                self.plan.rows, self.plan.groups, self.teacher.classes, stream(self.seed, index, "labels")
            )
            labels.append(rows.flatten())  # (R, G) -> (B,)
        return torch.cat(starts), torch.cat(labels)
