"""What a run will cost on this machine: seconds, disk and memory, from one timed step of each kind."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cake_cli.distillation.feeding import Labelled
from cake_cli.distillation.losses import distillation_loss
from cake_cli.distillation.optimizers import UpdateRule
from cake_cli.distillation.placement import choose_place, held_bytes
from cake_cli.distillation.trainer import train
from cake_cli.distillation.views import Views
from cake_cli.errors import EnvironmentFault, RunError, UsageError, is_out_of_memory
from cake_cli.events import SILENT
from cake_cli.hardware import Hardware, available_memory, free_disk
from cake_cli.methods import baseline_engine, build_engine, generator_training, untrained_generator
from cake_cli.models.architectures import build_student
from cake_cli.models.classifier import Classifier
from cake_cli.planning import Prepared
from cake_cli.ranks import Ranks
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.choice import Choice
from cake_cli.synthesis.disagreement import Disagreement
from cake_cli.synthesis.engine import Engine
from cake_cli.synthesis.sets import SetPlan
from cake_cli.synthesis_config import MOST_SAMPLES

QUICK = 1.0
"""Seconds: while a probe is quicker, it is repeated, and a larger one is tried."""
PAGE_BYTES = 2_000_000
"""About what report and pictures take."""
USED_SHARE = 0.9
"""Of a time budget: an estimate is none too exact, and the last wave should be whole."""
SLOW = 20.0
"""Seconds from which on something is timed once."""
REPEATS = 3
"""Times that something quick is timed."""
MORE_STEPS = 6
"""Steps of the wave or the epoch that tells what a step costs apart from what comes before and after."""
LEAST_WAVES = 8
"""Waves of each rank within a time budget: the one that the end cuts short is lost."""


@dataclass(frozen=True)
class Estimate:
    """What a run will cost on this machine."""

    seconds: dict[str, float]
    """By stage: synthesis, training, baseline."""
    disk: int
    """Bytes that the run directory will hold."""
    memory: int
    """Bytes of main memory that samples take in training: all, or the stretches in which they are read from disk."""

    @property
    def total_seconds(self) -> float:
        """All stages together."""
        return sum(self.seconds.values())


def estimate(prepared: Prepared) -> Estimate:
    """Times one step of each kind and works out what the run will take."""
    seconds: dict[str, float] = {}
    row_bytes = 4 * (prepared.subject.spec.values + prepared.subject.classes + 1)
    disk, memory = PAGE_BYTES, 0
    if prepared.synthesizes and prepared.teacher is not None:
        seconds["synthesis"] = _all_rounds_seconds(prepared, prepared.teacher)
        disk += prepared.samples * (row_bytes + _copy_bytes(prepared))
    if prepared.architecture is None:
        return Estimate(seconds, disk, memory)
    disk += (prepared.floor_samples - prepared.samples) * row_bytes
    if prepared.real is not None:
        disk += prepared.real.samples * (row_bytes + 8)
    size, hardware = prepared.learned_rows * row_bytes, prepared.hardware
    memory = held_bytes(size, choose_place(size, hardware, prepared.config.training.bank_memory), hardware)
    label = _label_seconds(prepared) if prepared.noise_samples or prepared.trains_baseline else 0.0
    seconds |= {"training": label * prepared.noise_samples} | ({"baseline": 0.0} if prepared.trains_baseline else {})
    for name in prepared.students:
        one = prepared.blueprints[name]
        each = _training_seconds(prepared, one.architecture)
        seconds["training"] += each * prepared.learned_rows
        disk += 3 * 4 * one.size.parameters  # the student, and a checkpoint with its momentum
        in_rounds = prepared.synthesizes and prepared.plan.rounds > 1 and name == prepared.students[0]
        if in_rounds:
            seconds["training"] += each * prepared.learned_rows * prepared.work_between + _choice_seconds(prepared)
            disk += (prepared.plan.rounds + 3) * 4 * one.size.parameters  # one a round, and one more checkpoint
        disk += len(prepared.config.student.export) * 4 * one.size.parameters
        if prepared.trains_baseline:
            floor, often = prepared.floor_samples, prepared.epochs_of_noise(in_rounds=in_rounds) / prepared.epochs
            seconds["baseline"] += (each * often + label) * floor
            disk += 4 * one.size.parameters + floor * row_bytes  # its noise, until the end
    return Estimate(seconds, disk, memory)


def _copy_bytes(prepared: Prepared) -> int:
    """Bytes that a sample takes in the copies of a bank; a picture hardly less than its pixels."""
    values, classes, formats = prepared.subject.spec.values, prepared.subject.classes, prepared.config.synthesis.formats
    return ("npz" in formats) * (4 * values + 8 * classes + 8) + ("png" in formats) * max(4096, values)


def settle(prepared: Prepared, bank: Path | None, ranks: Ranks) -> tuple[Prepared, Estimate]:
    """What a run will cost, and how many sets it makes where that follows from the cost; all ranks call this together.

    A bank that was begun keeps its plan. With a time budget there are as many sets as fit on all ranks together.

    Args:
        prepared: of the run.
        bank: folder of the bank that is gone on with, if it was begun; None where another is made, whatever lies there.
        ranks: the processes that will share the synthesis.

    Raises:
        UsageError: if not even one set fits into the time budget.
        DataError: if the bank that was begun is damaged, or of another plan.
    """
    if not prepared.synthesizes:
        return prepared, _shared(estimate(prepared), ranks)
    budget = prepared.config.synthesis.budget_seconds
    if bank is not None and (bank / "manifest.json").is_file():
        prepared = replace(prepared, plan=SampleBank.open(bank).plan_for(prepared.plan.samples))
    elif budget is not None:
        whole = prepared.plan
        prepared = replace(prepared, plan=_plan_within(prepared, budget, ranks))
        if prepared.plan.at_once < whole.at_once:  # fewer sets side by side are slower: measured again
            prepared = replace(prepared, plan=_plan_within(prepared, budget, ranks))
    cost = estimate(prepared)
    together = min(_together(cost.seconds["synthesis"], ranks), budget or math.inf)
    return prepared, _shared(replace(cost, seconds=cost.seconds | {"synthesis": together}), ranks)


def _shared(cost: Estimate, ranks: Ranks) -> Estimate:
    """The same with training shared by all ranks, each a part of every batch."""
    shared = {name: value / ranks.world for name, value in cost.seconds.items() if name in ("training", "baseline")}
    return replace(cost, seconds=cost.seconds | shared)


def _together(seconds: float, ranks: Ranks) -> float:
    """How long all ranks take for what this one does in `seconds`."""
    rate: float = sum(1 / max(each, 1e-9) for each in ranks.gather(seconds))
    return 1 / rate


def _plan_within(prepared: Prepared, budget: float, ranks: Ranks) -> SetPlan:
    """As many sets as fit, at most those of `--samples`, in waves so short that little is lost at the end."""
    if prepared.teacher is None:
        return prepared.plan
    plan, wanted = prepared.plan, prepared.config.synthesis.samples
    set_seconds = _together(_all_rounds_seconds(prepared, prepared.teacher), ranks) / plan.sets
    fitting = min(int(USED_SHARE * budget / set_seconds), MOST_SAMPLES // plan.set_size)
    if prepared.config.synthesis.rounds is None:
        plan = replace(plan, sets=max(1, fitting)).in_rounds(plan.rounds)
    if set_seconds * ranks.world * plan.rounds > budget:
        raise UsageError(
            f"one set of {plan.set_size} samples{f' in each of {plan.rounds} rounds' if plan.rounds > 1 else ''} takes "
            f"{set_seconds * ranks.world * plan.rounds:.0f} s here, and the time budget is "
            f"{budget:.0f} s",
            "a longer --time-budget, fewer --steps, or a smaller --set synthesis.set_size",
        )
    fitting = max(plan.rounds, fitting)
    sets = fitting if wanted is None else min(fitting, math.ceil(wanted / plan.set_size))
    at_once = min(plan.at_once, math.ceil(sets / plan.rounds), max(1, fitting // (LEAST_WAVES * ranks.world)))
    return replace(plan, sets=sets, at_once=at_once)


def _all_rounds_seconds(prepared: Prepared, teacher: Classifier) -> float:
    """The synthesis as a whole: a round of it against no student, the others against one."""
    alone, rounds, settings = _synthesis_seconds(prepared, teacher), prepared.plan.rounds, prepared.config.synthesis
    if rounds == 1 or settings.disagreement == 0 or prepared.architecture is None:
        return alone
    student = build_student(prepared.architecture, prepared.subject.spec.shape, prepared.subject.classes).eval()
    against = Disagreement(prepared.hardware.place(student.requires_grad_(False)), prepared.hardware)
    try:
        return (alone + (rounds - 1) * _synthesis_seconds(prepared, teacher, against)) / rounds
    except RunError as fault:
        lower = f"--disagreement {settings.disagreement / 5:g}"
        raise RunError(f"against a student {fault.what}", f"{lower}, or {fault.fix}") from fault


def _synthesis_seconds(prepared: Prepared, teacher: Classifier, against: Disagreement | None = None) -> float:
    """From a wave of one step, and of more where that is quick: what comes before and after the steps stands alone."""
    settings, plan, hardware = prepared.config.synthesis, prepared.plan, prepared.hardware
    if teacher.seconds_a_row is not None:  # nothing is asked only to know how long it takes
        return teacher.seconds_a_row * prepared.planned_passes.forward
    engine = build_engine(settings, teacher, plan, seed=0, hardware=hardware)
    if against is not None:
        engine = replace(engine, objective=engine.objective.against(against, settings.disagreement_weight))
    if settings.way == "generative":
        return _generative_seconds(prepared, engine)

    def wave(rows: int, steps: int) -> None:
        part = replace(plan, rows=max(1, rows // plan.groups), at_once=1)
        replace(engine, plan=part, steps=min(steps, engine.steps)).wave(range(1), SILENT.stage("probe", 1, ""))

    # all rows of such a wave are one set, and a set that must stay whole goes through the teacher in one pass
    most = plan.set_size * (1 if engine.least_rows == plan.set_size else plan.at_once)
    spent, rows = _quick_step(lambda rows: wave(rows, 1), plan.groups, most, hardware)
    if engine.steps <= 1:
        return spent / rows * plan.samples
    step = 3 / 4 * spent  # a gradient step costs about three forward passes, the labels at the end one
    if spent < QUICK:
        step = max(0.0, _timed(hardware, lambda: wave(rows, MORE_STEPS)) - spent) / (min(MORE_STEPS, engine.steps) - 1)
    return (spent - min(step, spent) + step * engine.steps) / rows * plan.samples


def _label_seconds(prepared: Prepared) -> float:
    """For each starting point that is drawn, and labelled without a step; 0 where there is no teacher."""
    settings, plan, hardware, teacher = prepared.config.synthesis, prepared.plan, prepared.hardware, prepared.teacher
    if teacher is None or teacher.seconds_a_row is not None:
        return 0.0 if teacher is None else teacher.seconds_a_row or 0.0
    engine = baseline_engine(settings, teacher, plan, seed=0, hardware=hardware)

    def wave(rows: int) -> None:
        part = replace(plan, rows=max(1, rows // plan.groups), at_once=1)
        replace(engine, plan=part).wave(range(1), SILENT.stage("probe", 1, ""))

    spent, rows = _quick_step(wave, plan.groups, plan.set_size * plan.at_once, hardware)
    return spent / rows


def _choice_seconds(prepared: Prepared) -> float:
    """For all starting points that students will choose: drawn more often than wanted, and shown to two of them."""
    settings, plan, subject, teacher = prepared.config.synthesis, prepared.plan, prepared.subject, prepared.teacher
    if not prepared.chosen_samples or teacher is None or prepared.architecture is None:
        return 0.0
    student = build_student(prepared.architecture, subject.spec.shape, subject.classes).eval().requires_grad_(False)
    network = prepared.hardware.place(student)
    engine = baseline_engine(settings, teacher, plan, seed=0, hardware=prepared.hardware)
    engine = replace(engine, choice=Choice((network, network), prepared.hardware))

    def draw(rows: int) -> None:
        replace(engine, plan=replace(plan, rows=max(1, rows // plan.groups), at_once=1)).draw(range(1))

    spent, rows = _quick_step(draw, plan.groups, plan.set_size, prepared.hardware)
    return spent / rows * prepared.chosen_samples


def _generative_seconds(prepared: Prepared, engine: Engine) -> float:
    """An update goes through generator and teacher, forth and back; drawing and labelling hardly count beside."""
    settings, plan, hardware = prepared.config.synthesis, prepared.plan, prepared.hardware
    generator = untrained_generator(settings, engine.teacher, hardware, seed=0)
    training = generator_training(settings, engine)
    optimizer = training.optimizer(generator)

    def one_update(rows: int) -> None:
        replace(training, rows=max(1, rows // plan.groups)).take(0, generator, optimizer)

    spent, rows = _quick_step(one_update, plan.groups, plan.set_size, hardware)
    return spent / rows * plan.set_size * training.updates


def _training_seconds(prepared: Prepared, architecture: str) -> float:
    """For each sample, over all epochs."""
    settings, hardware, subject = prepared.config.training, prepared.hardware, prepared.subject
    network = hardware.place(build_student(architecture, subject.spec.shape, subject.classes))

    def steps(rows: int, count: int) -> None:
        samples = Labelled(
            hardware.place_rows(torch.randn(rows * count, *subject.spec.shape)),
            torch.randn(rows * count, subject.classes, device=hardware.device),
        )
        train(
            network,
            samples,
            heldout=None,
            loss=distillation_loss(settings.labels, settings.temperature, settings.loss),
            views=_timed_views(prepared),
            epochs=1,
            batch_size=rows,
            rule=UpdateRule.for_network(network, settings.student_optimizer, lr=1e-6),
            clip=settings.clip,
            seed=0,
            hardware=hardware,
            stage=SILENT.stage("probe", 1, ""),
        )

    asked = 0.0 if not settings.views or prepared.teacher is None else prepared.teacher.seconds_a_row or 0.0
    most = max(2, min(settings.batch_size, prepared.learned_rows))  # of one row alone BatchNorm learns nothing
    spent, rows = _quick_step(lambda rows: steps(rows, 1), 8, most, hardware)
    if spent < QUICK:  # so that little of what an epoch takes before its first step counts
        spent = _timed(hardware, lambda: steps(rows, MORE_STEPS)) / MORE_STEPS
    return (spent / rows + asked) * prepared.epochs


def _timed_views(prepared: Prepared) -> Views | None:
    """The views that a step is timed with: none where each of the teacher's labels may cost."""
    names, teacher = prepared.config.training.views, prepared.teacher
    if not names or teacher is None or teacher.seconds_a_row is not None:
        return None
    return Views(names, teacher, prepared.hardware)


def _quick_step(one_step: Callable[[int], None], few: int, many: int, hardware: Hardware) -> tuple[float, int]:
    """Times a step on few rows, then on more while that is quick: one step of a large network takes minutes.

    Returns:
        Seconds of the last step that was timed, and its rows.
    """
    rows = min(few, many)
    one_step(rows)
    spent = _timed(hardware, lambda: one_step(rows))
    while rows < many and spent < QUICK:
        more = min(many, 8 * rows)
        try:
            spent = _timed(hardware, lambda: one_step(more))  # noqa: B023
        except (RuntimeError, MemoryError) as fault:
            if not is_out_of_memory(fault):
                raise
            break  # synthesis will find how many rows fit
        rows = more
    return spent, rows


def _timed(hardware: Hardware, work: Callable[[], object]) -> float:
    """Seconds that it takes, the least of two, or of a few where that is quick: other programs only ever add to it."""

    def once() -> float:
        hardware.synchronize()
        started = time.perf_counter()
        work()
        hardware.synchronize()
        return time.perf_counter() - started

    times = [once()]
    if times[0] < SLOW:
        times.append(once())
    while len(times) < REPEATS and sum(times) < QUICK:
        times.append(once())
    return min(times)


def require_room(prepared: Prepared, cost: Estimate, out: Path) -> None:
    """Refuses a run that the disk or the memory cannot hold; what a stopped run wrote counts as room.

    Raises:
        EnvironmentFault: with what is there and what it would take.
    """
    free = free_disk(out) + sum(file.stat().st_size for file in out.glob("**/*") if file.is_file())
    if cost.disk > free:
        fitting = prepared.samples * free // (2 * cost.disk)
        raise EnvironmentFault(
            f"the run would write {cost.disk / 2**20:,.0f} MiB; {out} has {free / 2**20:,.0f} MiB free",
            (f"--samples {fitting}, or " if fitting else "") + "--out on another disk",
        )
    memory = available_memory()
    if memory is not None and cost.memory > memory:
        raise EnvironmentFault(
            f"training would hold {cost.memory / 2**30:.1f} GiB of samples, and {memory / 2**30:.1f} GiB are free",
            "--set training.bank_memory=auto, which reads from the disk what memory does not hold"
            if prepared.config.training.bank_memory != "auto"
            else "end other programs",
        )
