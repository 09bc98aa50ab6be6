"""Many sets synthesized side by side, each with its own step size and its own random stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from cake_cli.config import Init
from cake_cli.errors import RunError
from cake_cli.events import Stage
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.synthesis.ahead import DrawnAhead
from cake_cli.synthesis.choice import CANDIDATES, Choice
from cake_cli.synthesis.compiling import compiled
from cake_cli.synthesis.estimated import Estimator
from cake_cli.synthesis.generator import Generator
from cake_cli.synthesis.noise import PICTURES, add_langevin, draw_labels, draw_start, stream
from cake_cli.synthesis.objective import Objective
from cake_cli.synthesis.pace import pace_of
from cake_cli.synthesis.replay import ReplayedStep, capture_on
from cake_cli.synthesis.samples import Samples
from cake_cli.synthesis.sets import SetPlan
from cake_cli.synthesis.space import Anywhere, Space, exposed_range
from cake_cli.synthesis.starts import WIDER, Revival, revive
from cake_cli.synthesis.step import PlainStep, Step, Walk, even_part
from cake_cli.synthesis.step_plan import StepPlan
from cake_cli.synthesis.update import Sgd, Update
from cake_cli.threads import with_threads

PAPERS_UPDATE = Sgd()
PAPERS_SPACE = Anywhere()


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
    dead: Tensor | None = None
    """(N,), bool: where the teacher has no gradient after redrawing; None where no gradient was asked for.

    With a disagreement, where neither it nor the student has one: the student's moves a sample, too."""
    redrawn: Tensor | None = None
    """(N,), bool: where the starting point was redrawn."""
    student_passes: Passes = field(default_factory=Passes)
    """What a student was asked beside the teacher."""
    waypoints: tuple[Tensor, Tensor] | None = None
    """Points on the way of each sample, (N · W, *shape), those of a sample together, and the teacher's logits there,
    (N · W, K), on the CPU; None where none are kept."""


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
    step_sizes: Sequence[float]
    """One for each set of the plan."""
    steps: int
    """Gradient steps; 0 leaves the starting points, which the teacher then labels."""
    langevin: bool
    """Whether Langevin noise is added after each step."""
    seed: int
    hardware: Hardware
    rows_per_pass: int
    """Samples that go through the teacher together, a multiple of G or, where the objective needs whole sets, of B:
    it bounds memory."""
    init: Init = "normal"
    """How starting points are drawn."""
    update: Update = PAPERS_UPDATE
    """How a gradient moves a sample."""
    space: Space = PAPERS_SPACE
    """Where samples may lie."""
    redraws: int = 0
    """How often a starting point without a gradient is drawn again."""
    choice: Choice | None = None
    """Takes the best of more starting points than are wanted, if given."""
    generator: Generator | None = None
    """Makes the starting points, if given."""
    generator_steps: int = 0
    """Gradient steps for each sample that training the generator took; counted with the passes."""
    estimator: Estimator | None = None
    """Estimates gradients from outputs; None where they are computed."""
    threads: int | None = None
    """Of the CPU; None for as many as torch takes by itself."""
    compiled: bool = False
    """Whether the teacher is compiled for the steps."""
    graphed: bool = False
    """Whether a step is captured as a CUDA graph and replayed."""
    waypoints: int = 0
    """W: how many points on the way of each sample are kept, with the logits that the step there asks for anyway."""

    @property
    def least_rows(self) -> int:
        """Samples that must go through the teacher together: `rows_per_pass` is a multiple of it."""
        whole = self.objective.whole_sets or self.estimator is not None
        return self.plan.set_size if whole else self.plan.groups

    @property
    def step_plan(self) -> StepPlan:
        """How a step is computed."""
        return StepPlan(
            layout=self.hardware.layout,
            precision=self.hardware.precision,
            rows_per_pass=self.rows_per_pass,
            threads=self.threads,
            compiled=self.compiled,
            graphed=self.graphed,
        )

    def planned(self, step_plan: StepPlan) -> Engine:
        """The same engine with steps computed so; the teacher's weights change their place in memory."""
        hardware = replace(self.hardware, layout=step_plan.layout, precision=step_plan.precision)
        return replace(
            self,
            teacher=self.teacher.on(hardware),
            hardware=hardware,
            rows_per_pass=step_plan.rows_per_pass,
            threads=step_plan.threads,
            compiled=step_plan.compiled,
            graphed=step_plan.graphed,
        )

    def lasting(self, steps: int) -> Engine:
        """The same engine with another number of steps, and no redraws; what was compiled or captured is kept."""
        other = replace(self, steps=steps, redraws=0)
        other.__dict__.update(step=self.step, _plain=self._plain)
        return other

    def wave(self, sets: range, stage: Stage) -> Wave:
        """Synthesizes some sets side by side, telling `stage` of progress in samples.

        Raises:
            RunError: if the objective is not finite, with the step.
        """
        with with_threads(self.threads):
            starts, labels = self._ahead.take(sets)
            return self._wave(sets, starts, labels, stage)

    def expect(self, sets: range) -> None:
        """Says which sets will probably come next: where a device computes, the host draws for them meanwhile."""
        if self.hardware.device.type == "cuda" and self.generator is None:
            self._ahead.expect(sets)

    @cached_property
    def _ahead(self) -> DrawnAhead:
        return DrawnAhead(self.draw, pin=self.hardware.device.type == "cuda")

    def _wave(self, sets: range, starts: Tensor, labels: Tensor, stage: Stage) -> Wave:
        walk = self.begin(sets, starts, labels)
        kept: list[tuple[Tensor, Tensor]] = []
        revival = self.walk_on(walk, sets, stage, kept)
        logits, terms = self._look(walk)
        if self.steps == 0:
            stage.advance(len(starts))
        taken = self.steps + self.generator_steps
        passes = Passes(forward=len(starts) * (taken + 1), backward=len(starts) * taken)
        if self.estimator is not None:
            passes = Passes(forward=len(starts) * (self.estimator.queries * self.steps + 1))
        asked = 0
        if revival is not None:
            passes += Passes(revival.passes, revival.passes)
            again = bool(revival.redrawn.any())  # then the first step was taken twice
            asked = len(starts) * (self.steps + again) if self.objective.asks_student else 0
        return Wave(
            sets=sets,
            samples=Samples(
                inputs=walk.inputs.cpu().contiguous(),
                logits=logits.cpu(),
                targets=labels if self.aims else torch.full_like(labels, -1),
                step_sizes=walk.step_sizes.flatten().cpu(),
            ),
            passes=passes,
            terms={name: float(value.mean()) for name, value in terms.items()},
            dead=None if revival is None else revival.dead,
            redrawn=None if revival is None else revival.redrawn,
            student_passes=Passes(asked, asked),
            waypoints=_by_sample(kept) if kept else None,
        )

    @property
    def aims(self) -> bool:
        """Whether samples are drawn towards labels, and not only labelled."""
        return self.steps > 0 or self.generator is not None

    def walk_on(
        self, walk: Walk, sets: range, stage: Stage, kept: list[tuple[Tensor, Tensor]] | None = None
    ) -> Revival | None:
        """Takes all steps of a walk of these sets; the host waits after the first one, and to tell of progress.

        Args:
            walk: of the sets, before its first step.
            sets: side by side.
            stage: told of progress in samples.
            kept: filled with the waypoints (N, *shape) and the teacher's logits there (N, K), on the device.

        Returns:
            What became of starting points without a gradient, None where no step is taken.
        """
        own_sizes = [self.step_sizes[index] for index in sets]
        noise = [stream(self.seed, index, "langevin", self.hardware.device) for index in sets] if self.langevin else []
        pace = pace_of(self.hardware, stage, len(walk.inputs), self.steps)
        revival: Revival | None = None
        wanted = set() if kept is None else waypoint_steps(self.steps, self.waypoints)
        for step in range(self.steps):
            before = walk.inputs.clone() if step in wanted else None
            if step == 0:
                self._first_step(walk)
                revival = self._revive(sets, walk)
            else:
                self.step(walk)
            if before is not None and kept is not None:
                kept.append((before, walk.logits.clone()))
            if noise:
                add_langevin(walk.positions, own_sizes, noise)
                self.space.settle(walk.positions, walk.inputs)
            pace.after_step(walk.loss)
        pace.finish()
        return revival

    def let_go(self) -> None:
        """Drops steps that were compiled or captured, and what was drawn ahead: another engine needs that memory."""
        for kept in ("step", "_first_step", "_plain", "_ahead"):
            self.__dict__.pop(kept, None)

    @cached_property
    def step(self) -> Step:
        """One gradient step on a walk; kept, because to compile or to capture it takes time."""
        return ReplayedStep(self._plain, capture_on(self.hardware.device)) if self.graphed else self._plain

    @cached_property
    def _first_step(self) -> PlainStep:
        """The first step of a walk, after which samples without a gradient are looked for."""
        return replace(self._plain, finds_dead=True)

    @cached_property
    def _plain(self) -> PlainStep:
        teacher, rows = self.teacher, self.rows_per_pass
        if self.compiled:
            full = even_part(self.plan.set_size * self.plan.at_once, rows, self.least_rows)
            teacher = replace(teacher, module=compiled(teacher.module, full))
        return PlainStep(
            teacher=teacher,
            objective=self.objective,
            update=self.update,
            space=self.space,
            groups=self.plan.groups,
            set_size=self.plan.set_size,
            hardware=self.hardware,
            rows_per_pass=rows,
            estimator=self.estimator,
        )

    @property
    def refused(self) -> str | None:
        """Why steps could not be captured, where they should have been."""
        return self.step.refused if isinstance(self.step, ReplayedStep) else None

    def begin(self, sets: range, starts: Tensor, labels: Tensor) -> Walk:
        """A walk of these sets on the device, from starting points (P·B, *shape) to labels (P·B,)."""
        own_sizes = [self.step_sizes[index] for index in sets]
        eta = torch.tensor(own_sizes).repeat_interleave(self.plan.set_size)  # (P·B,)
        eta = eta.reshape(-1, *(1,) * len(self.teacher.spec.shape))
        device = self.hardware.device
        rows, targets, kept = self.hardware.place_rows(starts), labels.to(device), self.waypoints > 0
        walk = Walk.begin(
            rows, targets, eta.to(device), self.update, self.space, logits=self.teacher.classes if kept else 0
        )
        if self.estimator is not None:
            walk.streams = tuple(stream(self.seed, index, "directions") for index in sets)
        return self.step.adopt(walk) if self.steps else walk

    def _revive(self, sets: range, walk: Walk) -> Revival:
        """After the first step: where a sample had no gradient its start is drawn again, and the step is repeated."""
        suspects = ~walk.alive.cpu()  # waits for the device, once
        if self.estimator is not None or not bool(suspects.any()):  # what an estimate finds flat may not be
            return Revival(suspects, torch.zeros_like(suspects), 0)
        starts, _ = self.draw(sets)  # again, because the walk has moved them
        found = revive(
            starts,
            suspects,
            inputs_of=lambda rows: self.space.enter(self.hardware.place_rows(rows))[1],
            teacher=self.teacher,
            redraw=lambda attempt: self._starts(sets, f"redraw-{attempt}") * WIDER ** (attempt + 1),
            redraws=self.redraws,
            rows_per_pass=self.rows_per_pass,
        )
        if not bool(found.redrawn.any()):
            return found
        walk.restart(self.hardware.place_rows(starts), self.space)
        self._first_step(walk)
        return found.plus(len(starts))

    def _look(self, walk: Walk) -> tuple[Tensor, dict[str, Tensor]]:
        """The teacher's logits (N, K) at the end of a walk, and the parts of the objective (N,) by name.

        Raises:
            RunError: if anything on the way or now is not finite.
        """
        with torch.no_grad():
            size = even_part(len(walk.inputs), self.rows_per_pass, self.least_rows)
            logits = torch.cat([self.teacher(part).float() for part in torch.split(walk.inputs, size)])
            priors = {name: prior.value(walk.inputs) for name, (_, prior) in self.objective.priors.items()}
        first_bad, done = int(walk.first_bad), int(walk.steps_done)
        if first_bad < done or not bool(walk.inputs.isfinite().all() & logits.isfinite().all()):
            if done == 0:
                raise RunError(
                    "the teacher's outputs are not finite on the starting points", "check --input-range, --mean, --std"
                )
            eta = float(walk.step_sizes.max())
            raise RunError(
                f"the synthesis objective is not finite at step {min(first_bad, done - 1)} (step size {eta:.1e})",
                f"--set synthesis.step_size={eta / 10:.0e}, or a smaller weight; --precision fp32 if it was not",
            )
        return logits, walk.terms | (priors if walk.terms else {})

    def draw(self, sets: range) -> tuple[Tensor, Tensor]:
        """Starting points (P·B, *shape) and target labels (P·B,) of the sets."""
        drawn = [
            draw_labels(self.plan.rows, self.plan.groups, self.teacher.classes, stream(self.seed, index, "labels"))
            for index in sets
        ]
        labels = [rows.flatten() for rows in drawn]  # (R, G) -> (B,)
        if self.generator is None:
            taken = self._starts(sets, "start") if self.choice is None else self._best(self.choice, sets)
            return taken, torch.cat(labels)
        starts = [
            self.generator.draw(own, stream(self.seed, index, "latent"), self.rows_per_pass)
            for index, own in zip(sets, labels, strict=True)
        ]
        return torch.cat(starts), torch.cat(labels)

    def _best(self, choice: Choice, sets: range) -> Tensor:
        """The starting points (P·B, *shape) of the sets that are taken of so many more, each set's of its own."""
        purposes = ["start", *(f"candidate-{number}" for number in range(1, CANDIDATES))]
        drawn = (torch.cat([self._starts(range(index, index + 1), each) for each in purposes]) for index in sets)
        return torch.cat([choice.best(candidates, self.plan.set_size, self.rows_per_pass) for candidates in drawn])

    def _starts(self, sets: range, purpose: str) -> Tensor:
        """Starting points (P·B, *shape) of the sets, each set's from its own stream for this purpose."""
        spec, size = self.teacher.spec, self.plan.set_size
        bounds = exposed_range(spec) if self.init in PICTURES and spec.is_image else None
        streams = [stream(self.seed, index, purpose) for index in sets]
        return torch.cat([draw_start(spec.shape, size, own, self.init, bounds) for own in streams])


def waypoint_steps(steps: int, waypoints: int) -> set[int]:
    """Before which steps, of 0 to steps - 1, a point on the way is kept: evenly spread, the start left out.

    The start is as good as any other, and labelled starting points are cheaper to come by.
    """
    kept = min(waypoints, steps - 1)
    return {number * steps // (kept + 1) for number in range(1, kept + 1)}


def _by_sample(kept: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """W waypoints (N, *shape) and (N, K) as (N · W, *shape) and (N · W, K), those of a sample together, on the CPU."""
    inputs, logits = (torch.stack(tensors, dim=1).flatten(0, 1).cpu() for tensors in zip(*kept, strict=True))
    return inputs.contiguous(), logits
