"""Which way of computing a step is the fastest here: a few steps of each, timed in turn, before a long run.

A candidate is taken if it is clearly faster than the best so far and moves samples as the plain step does. What is
chosen decides the last bits of samples, so a bank remembers it, and nothing is chosen again when it is gone on with.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cake_cli.errors import is_out_of_memory
from cake_cli.hardware import has_native_bf16
from cake_cli.synthesis.engine import Engine
from cake_cli.synthesis.step import Walk, even_part
from cake_cli.synthesis.step_plan import StepPlan
from cake_cli.threads import with_threads

SHARE = 0.03
"""Of the run that the probe may take."""
REPETITIONS = 5
BLOCK_SECONDS = 0.03
"""What is timed lasts at least as long: a clock and a scheduler have their grain."""
MOST_SECONDS = 120.0
"""That a probe may take, however long the run."""
COMPILE_SECONDS = 60.0
"""What compiling may take: it is tried in runs of which that is the probe's share."""
FASTER = 0.95
"""Of the time of the best so far, that a candidate must stay below: noise should not choose."""
FEWER_THREADS_FASTER = 0.8
"""The same for fewer threads, which win for a moment whenever another process is busy."""
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 5e-2}
"""How far a first step may lead from that of the plain plan: the length of the difference, relative to the step's,
over all samples but a few (`STILL_EVEN`); by the precision of the candidate."""

UNEVEN = 0.1
"""Of the inputs' standard deviation: noise on the samples that are compared. Max-pooling of an even surface follows one
of many equal pixels, and which one hangs on the layout, with as much right."""
STILL_EVEN, MOST_APART = 0.02, 0.05
"""The share of samples, the furthest apart, that may differ for that reason all the same, and the most that the
difference over all samples may be then: a single sample of 500 that goes elsewhere entirely is too much."""


@dataclass(frozen=True)
class Trial:
    """A candidate and what became of it."""

    step_plan: StepPlan
    verdict: str
    """``plain``, ``taken``, ``not faster``, ``differs``, or what went wrong."""
    rate: float | None = None
    """Sample-steps a second, median."""
    against: float | None = None
    """Time of a step relative to that of the best before it, median of pairs timed in turn."""
    difference: float | None = None
    """Of its first step from the plain one, relative."""

    def to_json(self) -> dict[str, Any]:
        """As plain values, for a manifest."""
        return {
            "plan": self.step_plan.describe(),
            "verdict": self.verdict,
            "rate": None if self.rate is None else round(self.rate, 1),
            "against": None if self.against is None else round(self.against, 4),
            "difference": self.difference,
        }


@dataclass(frozen=True)
class Choice:
    """What a probe chose."""

    step_plan: StepPlan
    at_once: int
    """Sets side by side."""
    trials: tuple[Trial, ...]
    seconds: float
    """That the probe took."""


class OutOfBudget(Exception):
    """The next trial would take longer than the probe may."""


def probe(
    engine: Engine,
    *,
    most_rows: int,
    widens: bool = True,
    lower_precision: bool = False,
    share: float = SHARE,
    most_seconds: float = MOST_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Choice:
    """Times the candidates that apply to an engine, and chooses.

    Args:
        engine: with the plain plan.
        most_rows: that may go through the teacher together, whatever is fastest.
        widens: whether more sets may run side by side than the engine's plan has.
        lower_precision: whether bf16 may take the place of fp32 where the device has it.
        share: of the run's estimated time, for the probe.
        most_seconds: for the probe, however long the run.
        clock: in seconds.
    """
    trials = _Trials(engine, share, most_seconds, clock)
    try:
        seen = trials.climb(most_rows if widens else min(most_rows, engine.plan.set_size * engine.plan.at_once))
        for candidate, faster in _candidates(engine, trials.best, lower_precision):
            trials.attempt(candidate(trials.best), faster)
        trials.settle_rows(seen)
        if engine.hardware.device.type == "cuda":
            trials.attempt(replace(trials.best, graphed=True))
        if _compiles(engine) and trials.left >= COMPILE_SECONDS:
            trials.attempt(replace(trials.best, compiled=True), expected=COMPILE_SECONDS)
    except OutOfBudget:
        pass
    chosen, plan = trials.best, engine.plan
    at_once = max(plan.at_once, min(chosen.rows_per_pass // plan.set_size, plan.sets)) if widens else plan.at_once
    engine.planned(chosen)  # the teacher's weights lie as the choice has them
    return Choice(chosen, at_once, tuple(trials.found), trials.spent)


Change = Callable[[StepPlan], StepPlan]


def _candidates(engine: Engine, plain: StepPlan, lower_precision: bool) -> Iterator[tuple[Change, float]]:
    """Changes of a plan that apply to the engine, and how much faster each must be."""
    device = engine.hardware.device
    if len(engine.teacher.spec.shape) == 3:
        yield lambda plan: replace(plan, layout="contiguous"), FASTER
    if lower_precision and plain.precision == "fp32" and has_native_bf16(device):
        yield lambda plan: replace(plan, precision="bf16"), FASTER
    if device.type == "cpu" and torch.get_num_threads() > 1:
        yield lambda plan: replace(plan, threads=torch.get_num_threads() // 2), FEWER_THREADS_FASTER


def _compiles(engine: Engine) -> bool:
    """Whether torch.compile takes the teacher: it does not look into TorchScript, nor let terms listen to layers."""
    modules = engine.teacher.module.modules()
    return not engine.objective.layers and not any(isinstance(module, torch.jit.ScriptModule) for module in modules)


class _Trials:
    """The best plan so far, and the means to try another."""

    def __init__(self, engine: Engine, share: float, most_seconds: float, clock: Callable[[], float]) -> None:
        self.engine = engine
        self.clock = clock
        self.started = clock()
        self.share = share
        self.most_seconds = most_seconds
        self.budget = math.inf
        full = even_part(engine.plan.set_size * engine.plan.at_once, engine.rows_per_pass, engine.least_rows)
        self.best = self.plain = replace(engine.step_plan, rows_per_pass=full)
        self.found: list[Trial] = []
        self.rows = full
        """Of the walks on which candidates are compared."""
        self.step_seconds = 0.0
        self._plain_step: tuple[int, Tensor] | None = None

    @property
    def spent(self) -> float:
        return self.clock() - self.started

    @property
    def left(self) -> float:
        return self.budget - self.spent

    def climb(self, most: int) -> list[tuple[int, float]]:
        """Times one plain step on more and more rows: how long the run will be, and which sizes deserve a closer look.

        Returns:
            Rows and seconds a row of each size.
        """
        full, total = self.plain.rows_per_pass, self.engine.plan.samples * self.engine.steps
        sizes = sorted({*_ladder(self.engine.least_rows, most), *([full] if full <= most else [])})
        seen: list[tuple[int, float]] = []
        for size in sizes:
            try:
                own = self._engine(self.plain, size)
                walk = self._walk(own)
                self._timed(own, walk, 1)
                seconds = self._timed(own, walk, 1)
            except (RuntimeError, MemoryError) as fault:
                if not is_out_of_memory(fault) or not seen:
                    raise
                break
            seen.append((size, seconds / size))
            self.budget = min(self.most_seconds, self.share * total * seconds / size)
            if size <= full:
                self.rows, self.step_seconds = size, seconds
            if self.spent + 4 * seconds > self.budget / 3:
                break
        self.found.append(Trial(self.plain, "plain", rate=self.rows / self.step_seconds))
        return seen

    def settle_rows(self, seen: list[tuple[int, float]]) -> None:
        """Takes the size that was fastest on the way up, if it stays faster than that of the plain plan.

        Where a step of the plain plan's size takes too long to be timed, and twice the rows made no difference on the
        way to it, the greatest size that was timed is taken: it needs less memory.
        """
        size, least = min(seen, key=lambda entry: entry[1])
        if size != self.rows:
            self.attempt(replace(self.best, rows_per_pass=size), rows=size)
        elif self.rows < self.plain.rows_per_pass and len(seen) > 1 and least > FASTER * seen[-2][1]:
            self.best = replace(self.best, rows_per_pass=size)
            self.found.append(Trial(self.best, "taken", rate=1 / least))

    def attempt(
        self, candidate: StepPlan, faster: float = FASTER, *, rows: int | None = None, expected: float = 0.0
    ) -> None:
        """Times a candidate against the best plan in turn, and takes it if it is faster and agrees.

        Raises:
            OutOfBudget: if that would take too long.
        """
        rows = rows or self.rows
        seconds = self.step_seconds * (1 + rows / self.rows)
        steps = max(1, math.ceil(BLOCK_SECONDS / self.step_seconds))
        if expected + seconds * (2 + REPETITIONS * steps) > self.left:
            raise OutOfBudget
        trial = self._tried(candidate, faster, rows, steps)
        self.found.append(trial)
        if trial.verdict == "taken" and trial.rate is not None:
            self.best, self.rows, self.step_seconds = candidate, rows, rows / trial.rate

    def _tried(self, candidate: StepPlan, faster: float, rows: int, steps: int) -> Trial:
        try:
            theirs = self._engine(candidate, rows)
            difference = self._difference(theirs)
            if not difference <= TOLERANCE[candidate.precision]:
                return Trial(candidate, "differs", difference=difference)
            ours = self._engine(self.best, self.rows)
            our_walk, their_walk = self._walk(ours), self._walk(theirs)
            self._timed(ours, our_walk, 1)
            pairs = [
                (self._timed(ours, our_walk, steps) / self.rows, self._timed(theirs, their_walk, steps) / rows)
                for _ in range(REPETITIONS)
            ]
        except Exception as fault:  # compilers and captures fail in any way they like; the plain step does not
            said = (str(fault).strip() or type(fault).__name__).splitlines()[0]
            return Trial(candidate, f"failed: {said[:200]}")
        if theirs.refused is not None:
            return Trial(candidate, f"failed: {theirs.refused[:200]}")
        against = statistics.median(their / our for our, their in pairs)
        rate = 1 / statistics.median(their for _, their in pairs)
        return Trial(candidate, "taken" if against <= faster else "not faster", rate, against, difference)

    def _engine(self, step_plan: StepPlan, rows: int) -> Engine:
        """An engine whose waves have so many rows."""
        plan = self.engine.plan
        if rows % plan.set_size == 0:
            plan = replace(plan, at_once=rows // plan.set_size)
        else:
            plan = replace(plan, rows=rows // plan.groups, at_once=1)
        sizes = list(self.engine.step_sizes[: plan.at_once])
        sizes *= math.ceil(plan.at_once / len(sizes))  # the run may have fewer
        return replace(self.engine.planned(replace(step_plan, rows_per_pass=rows)), plan=plan, step_sizes=sizes)

    def _walk(self, engine: Engine) -> Walk:
        engine.teacher.on(engine.hardware)  # before a capture, which reads the weights where they lie then
        sets = range(engine.plan.at_once)
        return engine.begin(sets, *engine.draw(sets))

    def _difference(self, candidate: Engine) -> float:
        """How far a first step leads from the plain one, relative to its length; infinite if either is not finite."""
        rows = candidate.rows_per_pass
        if self._plain_step is None or self._plain_step[0] != rows:
            self._plain_step = rows, self._moved(self._engine(self.plain, rows))
        plain = self._plain_step[1]
        apart = (self._moved(candidate) - plain).flatten(1).square().sum(dim=1).sort().values  # (N,)
        most = len(apart) - int(STILL_EVEN * len(apart))
        length = plain.square().sum().clamp_min(1e-60)
        difference, whole = (float((rows.sum() / length).sqrt()) for rows in (apart[:most], apart))
        return math.inf if not math.isfinite(whole) else whole if whole > MOST_APART else difference

    def _moved(self, engine: Engine) -> Tensor:
        walk = self._walk(engine)
        noise = torch.randn(walk.inputs.shape, generator=torch.Generator().manual_seed(0))
        walk.positions.add_(noise.to(walk.positions.device), alpha=UNEVEN)
        engine.space.settle(walk.positions, walk.inputs)
        before = walk.inputs.clone()
        self._timed(engine, walk, 1)
        return (walk.inputs - before).double().cpu()

    def _timed(self, engine: Engine, walk: Walk, steps: int) -> float:
        """Seconds of a step."""
        engine.teacher.on(engine.hardware)  # weights are shared, and another candidate may have laid them otherwise
        walk = engine.step.adopt(walk)
        engine.hardware.synchronize()
        with with_threads(engine.threads):
            started = self.clock()
            for _ in range(steps):
                engine.step(walk)
            engine.hardware.synchronize()
            return max(self.clock() - started, 1e-9) / steps


def _ladder(unit: int, most: int) -> list[int]:
    """Sizes in multiples of `unit`, each twice the one before, from about 16 rows."""
    sizes = [unit * math.ceil(16 / unit)]
    while sizes[-1] * 2 <= most:
        sizes.append(sizes[-1] * 2)
    return [size for size in sizes if size <= most] or [max(unit, most // unit * unit)]
