"""Starting points that the teacher labels and nothing moves: those beside a bank, and those of the noise baseline."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from cake_cli.distillation.pool import Part
from cake_cli.distillation.shelf import Shelf
from cake_cli.events import Reporter
from cake_cli.methods import baseline_engine
from cake_cli.models.classifier import Classifier
from cake_cli.planning import Prepared, rows_side_by_side
from cake_cli.ranks import ALONE, Ranks
from cake_cli.runs import RunDirectory
from cake_cli.synthesis.bank import SampleBank
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
) -> list[Part]:
    """The starting points that are learned beside the samples of one round, labelled if that was not done yet.

    Arguments and errors are those of `train_student`.
    """
    if not prepared.noise_samples or prepared.teacher is None:
        return []
    path, seed = shared_folder(prepared, run, bank) / "beside" / str(number), seed_of(f"{prepared.config.seed}/beside")
    return _labelled(prepared, prepared.teacher, path, reporter, prepared.noise_plan, number, ranks, seed=seed)


def starts_of_baseline(prepared: Prepared, run: RunDirectory, reporter: Reporter, ranks: Ranks = ALONE) -> list[Part]:
    """As many as the run's student learns labels from: the floor that every method must beat.

    Arguments and errors are those of `train_student`.
    """
    if prepared.teacher is None:
        return []
    path, seed = run.checkpoints / "noise", prepared.config.seed
    plan = replace(prepared.plan, sets=prepared.floor_samples // prepared.plan.set_size, rounds=1)
    return _labelled(prepared, prepared.teacher, path, reporter, plan, 1, ranks, seed=seed)


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
    number: int,
    ranks: Ranks,
    *,
    seed: int,
) -> list[Part]:
    """The starting points of a plan's round, labelled by the teacher and not moved; each rank labels a share of them.

    As many as a student learns from are the floor that every method must beat: what its steps add is what it is worth.
    How they are cut follows from their number alone, and not from the bank's waves, which a probe may have widened.
    """
    together = max(1, rows_side_by_side(prepared.hardware) // plan.set_size)
    plan, sets = replace(plan, at_once=together), plan.rounds_of_sets[number - 1]
    engine = baseline_engine(prepared.config.synthesis, teacher, plan, seed=seed, hardware=prepared.hardware)
    each = math.ceil(len(sets) / SHELVES)  # of whatever number of ranks, so that any number goes on
    each = each if each < together else math.ceil(each / together) * together
    shelves = [(Shelf(path / str(own.start)), own) for own in cut(sets, each)]
    missing = [(shelf, own) for shelf, own in shelves[ranks.rank :: ranks.world] if not shelf.is_whole]
    if missing:
        count = sum(len(own) for _, own in missing) * plan.set_size
        with reporter.stage("noise", count, "samples") as stage:
            for shelf, own in missing:
                made = (engine.wave(wave, stage).samples for wave in cut(own, together))
                shelf.fill(Part(samples.inputs, samples.logits) for samples in made)
            of = "" if ranks.is_alone else f", its part of {len(sets) * plan.set_size:,}"
            stage.conclude(f"{count:,} starting points labelled by the teacher{of}")
    ranks.barrier()
    shape, classes = prepared.subject.spec.shape, prepared.subject.classes
    return [part for shelf, own in shelves for part in shelf.parts(shape, classes, len(own) * plan.set_size)]
