"""Starting points that the teacher labels and nothing moves: those beside a bank, and those of the noise baseline."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cake_cli.distillation.pool import Part
from cake_cli.distillation.shelf import Shelf
from cake_cli.events import Reporter
from cake_cli.hardware import CPU_ROWS
from cake_cli.methods import baseline_engine
from cake_cli.models.classifier import Classifier
from cake_cli.models.students import load_student
from cake_cli.planning import Prepared
from cake_cli.ranks import ALONE, Ranks
from cake_cli.runs import RunDirectory
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.choice import CANDIDATES, Choice
from cake_cli.synthesis.noise import seed_of
from cake_cli.synthesis.sets import SetPlan, cut

SHELVES = 16
"""Folders that labelled starting points are kept in, at most: each is filled by one rank, and not again when it is."""


def starts_of_round(
    prepared: Prepared,
    run: RunDirectory,
    bank: SampleBank | None,
    number: int,
    reporter: Reporter,
    ranks: Ranks = ALONE,
    *,
    chosen: bool = False,
) -> list[Part]:
    """The starting points that are learned beside the samples of one round, labelled if that was not done yet.

    They are those that were taken as they were drawn, or with `chosen` those that the round's student and the one
    before it chose of `CANDIDATES` times as many. Rounds count from 1; other arguments, and errors, are those of
    `train_student`.
    """
    drawn, best = prepared.sets_beside(number)
    sets = best if chosen else drawn
    if not sets or prepared.teacher is None:
        return []

    def choice() -> Choice:
        files = [None if bank is None else bank.student_of(which) for which in (number - 1, number)]
        before, now = (load_student(file, prepared.architecture) for file in files if file is not None)
        return Choice((before.on(prepared.hardware), now.on(prepared.hardware)), prepared.hardware)

    path, seed = shared_folder(prepared, run, bank) / "beside" / str(number), seed_of(f"{prepared.config.seed}/beside")
    plan, choose = prepared.noise_plan, choice if chosen else None
    return _labelled(prepared, prepared.teacher, path, reporter, plan, sets, ranks, seed=seed, choose=choose)


def starts_of_baseline(prepared: Prepared, run: RunDirectory, reporter: Reporter, ranks: Ranks = ALONE) -> list[Part]:
    """As many as the run's student learns labels from: the floor that every method must beat.

    Arguments and errors are those of `train_student`.
    """
    if prepared.teacher is None:
        return []
    path, seed = run.checkpoints / "noise", prepared.config.seed
    plan = replace(prepared.plan, sets=prepared.floor_samples // prepared.plan.set_size, rounds=1)
    return _labelled(prepared, prepared.teacher, path, reporter, plan, range(plan.sets), ranks, seed=seed)


def shared_folder(prepared: Prepared, run: RunDirectory, bank: SampleBank | None) -> Path:
    """Where what several students learn from is kept until the last has done so: beside the bank of this run."""
    if bank is None or prepared.config.synthesis.bank is not None:
        return run.checkpoints
    return bank.path.parent / run.checkpoints.name


def _labelled(
    prepared: Prepared,
    teacher: Classifier,
    path: Path,
    reporter: Reporter,
    plan: SetPlan,
    sets: range,
    ranks: Ranks,
    *,
    seed: int,
    choose: Callable[[], Choice] | None = None,
) -> list[Part]:
    """The starting points of some sets, labelled by the teacher and not moved; each rank labels a share of them.

    As many as a student learns from are the floor that every method must beat: what its steps add is what it is worth.
    How they are cut follows from their number alone, so that any number of ranks on any device goes on with them, and
    not from the bank's waves, which a probe may have widened.
    """
    together, few = (max(1, rows // plan.set_size) for rows in (prepared.hardware.rows_side_by_side, CPU_ROWS))
    plan = replace(plan, at_once=together)
    each = math.ceil(len(sets) / SHELVES)
    each = each if each < few else math.ceil(each / few) * few
    shelves = [(Shelf(path / str(own.start)), own) for own in cut(sets, each)]
    missing = [(shelf, own) for shelf, own in shelves[ranks.rank :: ranks.world] if not shelf.is_whole]
    if missing:
        engine = baseline_engine(prepared.config.synthesis, teacher, plan, seed=seed, hardware=prepared.hardware)
        engine = engine if choose is None else replace(engine, choice=choose())
        count = sum(len(own) for _, own in missing) * plan.set_size
        with reporter.stage("noise", count, "samples") as stage:
            for shelf, own in missing:
                made = (engine.wave(wave, stage).samples for wave in cut(own, together))
                shelf.fill(Part(samples.inputs, samples.logits) for samples in made)
            of = "" if ranks.is_alone else f", its part of {len(sets) * plan.set_size:,}"
            best = "" if choose is None else f", chosen of {CANDIDATES * count:,} where two rounds' students differ"
            stage.conclude(f"{count:,} starting points labelled by the teacher{of}{best}")
    ranks.barrier()
    shape, classes = prepared.subject.spec.shape, prepared.subject.classes
    return [part for shelf, own in shelves for part in shelf.parts(shape, classes, len(own) * plan.set_size)]
