"""The bank of a run, made or gone on with: waves over ranks, shards in the background, within memory and time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cake_cli.config import LABELLED_ONLY, SynthesisConfig
from cake_cli.distillation.pool import Part
from cake_cli.distillation.shelf import waypoint_shelf
from cake_cli.errors import DataError, RunError, is_out_of_memory
from cake_cli.events import SILENT, Reporter, Stage
from cake_cli.locks import LOCK, held, is_left_over
from cake_cli.methods import build_engine, generator_training, untrained_generator
from cake_cli.models.blackbox.checking import asked_again, still_the_same
from cake_cli.models.classifier import Classifier
from cake_cli.planning import Prepared
from cake_cli.ranks import Ranks
from cake_cli.runs import RunDirectory
from cake_cli.storage import clear_leftovers
from cake_cli.synthesis.arithmetic import arithmetic_of, as_begun, differences, rows_per_pass, same_threads
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.copies import write_copies
from cake_cli.synthesis.course import Course, TimeIsUp
from cake_cli.synthesis.disagreement import Disagreement
from cake_cli.synthesis.engine import Engine, Wave
from cake_cli.synthesis.fitting import fitting_wave, with_fewer_rows
from cake_cli.synthesis.health import Health, require_spread
from cake_cli.synthesis.writer import ShardWriter
from cake_cli.tuning import tune

FREE_SETTINGS = ("sets_at_once", "formats", "bank", "disagreement")
"""Settings that may differ when a bank is gone on with: what its samples are does not follow from them, or each shard
says what it was made with."""


@dataclass(frozen=True)
class Turn:
    """One round of a bank's making."""

    number: int
    """From 1."""
    student: Classifier | None = None
    """What the samples are made against; None in the first round."""
    weight: float = 0.0
    """Of the disagreement with it."""


def synthesize(
    prepared: Prepared,
    path: Path,
    reporter: Reporter,
    run: RunDirectory | None = None,
    ranks: Ranks | None = None,
    turn: Turn | None = None,
) -> SampleBank:
    """Makes the bank, or goes on with one that a stopped run left. All ranks of a job call this together.

    Args:
        prepared: of the run; has a teacher.
        path: folder of the bank.
        reporter: told of the course.
        run: run directory that keeps the figures of each shard, if there is one; only the first rank gives it.
        ranks: the processes that share the work; by default there is one.
        turn: the round to make, of a plan that has several: the bank is complete after the last.

    Raises:
        RunError: if the objective is not finite, or the samples are degenerate.
        DataError: if a bank is there that is not this run's, or that another process works on.
        EnvironmentFault: if the disk is full or refuses, or memory holds not even one row.
    """
    ranks = Ranks() if ranks is None else ranks
    if prepared.teacher is None:
        raise DataError("a bank cannot be made without its teacher", "cake synthesize TEACHER -o BANK")
    with _claimed(path, ranks):
        if ranks.is_first:
            _open_or_create(prepared, path, reporter)
        ranks.barrier()
        bank = SampleBank.open(path, rank=ranks.rank)
        ranks.barrier()  # all have the same list of what is missing before any adds to the bank
        engine = as_begun(_engine(replace(prepared, plan=bank.plan)), bank)
        if prepared.config.synthesis.way == "generative" and not bank.is_complete:
            engine = _with_generator(engine, prepared, path / "generator.safetensors", reporter, ranks)
        engine, planned = _facing(engine, turn), _planned(bank, turn)
        name = "synthesis" if turn is None else f"synthesis {turn.number}/{bank.plan.rounds}"
        with reporter.stage(name, planned, "samples") as stage:
            begun = _health(bank, turn)
            stage.advance(0 if begun is None else begun.samples)
            course = Course(stage, ranks, spent=bank.seconds_spent, budget=bank.budget)
            with same_threads(bank):
                _make_waves(engine, bank, course, reporter, run, turn)
            if ranks.is_first:
                _finish(bank, course, turn)
                _tell(bank, turn, planned, stage, reporter)
        if ranks.is_first:
            if not ranks.is_alone:
                _tell_of_the_others(bank, reporter, run)
            if bank.is_complete:
                write_copies(bank, prepared.config.synthesis.formats, reporter)
        ranks.barrier()
    return bank if ranks.is_first else SampleBank.open(path)


def _engine(prepared: Prepared) -> Engine:
    if prepared.teacher is None:
        raise DataError("a bank cannot be made without its teacher", "cake synthesize TEACHER -o BANK")
    settings, seed = prepared.config.synthesis, prepared.config.seed
    engine = build_engine(settings, prepared.teacher, prepared.plan, seed=seed, hardware=prepared.hardware)
    return replace(engine, waypoints=prepared.waypoints)


# --- the folder ---------------------------------------------------------------------------------------------------


@contextmanager
def _claimed(path: Path, ranks: Ranks) -> Iterator[None]:
    """The bank's folder, held by these ranks: each has a lock, which shows whether it is alive."""
    if not ranks.is_first:
        ranks.barrier()
        with held(path, _lock_name(ranks.rank)):
            yield
        return
    path.mkdir(parents=True, exist_ok=True)
    with held(path):
        for left in path.glob(f"{LOCK}-*"):
            with held(path, left.name):
                pass  # its rank has died; one that lives is refused here
        ranks.barrier()
        yield


def _lock_name(rank: int) -> str:
    return LOCK if rank == 0 else f"{LOCK}-{rank}"


def dead_ranks(path: Path, ranks: Ranks) -> list[int]:
    """Ranks on this machine that worked on the bank at `path` and are gone without a word."""
    others = (rank for rank in range(ranks.world) if rank != ranks.rank)
    return [rank for rank in others if is_left_over(path / _lock_name(rank))]


def _open_or_create(prepared: Prepared, path: Path, reporter: Reporter) -> None:
    """Begins the bank, or makes one that a stopped run left ready to go on."""
    settings, engine = prepared.config.synthesis, _engine(prepared)
    if not (path / "manifest.json").exists():
        clear_leftovers(path)
        tuned = tune(prepared, engine, reporter)
        SampleBank.create(
            path,
            engine.teacher,
            tuned.plan,
            seed=prepared.config.seed,
            settings=asdict(settings),
            about=_about(prepared, engine),
            arithmetic=arithmetic_of(tuned.engine) | {"probe": tuned.record},
            budget=settings.budget_seconds,
        )
        return
    bank = SampleBank.open(path)
    if bank.teacher_sha256 != engine.teacher.sha256:
        raise DataError(
            f"the bank {path} was made from another teacher ({bank.manifest['teacher']['name']})",
            "choose another --out",
        )
    if not bank.is_complete:
        _still_the_same(bank, engine, engine.teacher.answers, reporter)
    begun = bank.manifest["synthesis"]
    if bank.manifest["seed"] != prepared.config.seed or _binding(_known(begun)) != _binding(asdict(settings)):
        raise DataError(f"the bank {path} was begun with other settings", "choose another --out")
    for difference in differences(bank, arithmetic_of(as_begun(engine, bank)), settings.sets_at_once):
        reporter.note(difference)
    bank.fold()
    bank.clear_leftovers()


def _about(prepared: Prepared, engine: Engine) -> dict[str, Any]:
    """What the manifest says of the objective: the weights that the settings came to, and what leaves the contract."""
    weights = {} if prepared.config.synthesis.only_labels else engine.objective.weights
    about: dict[str, Any] = {"objective": weights, "outside_contract": list(prepared.outside_contract)}
    if engine.teacher.no_gradient is not None:
        answers = engine.teacher.answers
        about["black_box"] = {
            "why": engine.teacher.no_gradient,
            "answers": None if answers is None else answers.tolist(),
        }
    return about


def _still_the_same(bank: SampleBank, engine: Engine, now: Tensor | None, reporter: Reporter) -> Engine:
    """The engine, or one that looks no more; raises if its teacher answers otherwise than when the bank was begun."""
    begun = (bank.manifest.get("black_box") or {}).get("answers")
    if begun is None:
        return engine
    known = torch.tensor(begun)
    teacher = still_the_same(engine.teacher, engine.hardware, known, now, reporter, bank=bank.path)
    return engine if teacher is engine.teacher else replace(engine, teacher=teacher)


def _known(begun: dict[str, Any]) -> dict[str, Any]:
    """Settings of a bank with the defaults of those that came after the version that began it."""
    return asdict(SynthesisConfig()) | begun


def _binding(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what samples are; a manifest has lists where a configuration has tuples."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in settings.items()
        if name not in FREE_SETTINGS
    }


# --- the work -----------------------------------------------------------------------------------------------------


def _with_generator(engine: Engine, prepared: Prepared, checkpoint: Path, reporter: Reporter, ranks: Ranks) -> Engine:
    """The engine with a generator that is trained, or was: by the first rank, for all."""
    settings = prepared.config.synthesis
    if not ranks.is_first:
        ranks.barrier()
        reporter = SILENT
    while True:
        generator = untrained_generator(settings, engine.teacher, prepared.hardware, prepared.config.seed)
        training = generator_training(settings, engine)
        try:
            with reporter.stage("generator", training.updates, "updates") as stage:
                training.run(generator, checkpoint, stage)
            break
        except (RuntimeError, MemoryError) as fault:
            if not is_out_of_memory(fault):
                raise
        engine = with_fewer_rows(engine, range(1), reporter.warn)
    if ranks.is_first:
        ranks.barrier()
    return replace(engine, generator=generator)


def _facing(engine: Engine, turn: Turn | None) -> Engine:
    """The engine with the objective of a round: from the second on, against a student."""
    if turn is None or turn.student is None:
        return engine
    student = Disagreement(turn.student.on(engine.hardware), engine.hardware)
    return replace(engine, objective=engine.objective.against(student, turn.weight))


def _make_waves(
    engine: Engine, bank: SampleBank, course: Course, reporter: Reporter, run: RunDirectory | None, turn: Turn | None
) -> None:
    """Makes what is missing of the bank: each rank the next wave that none has taken, until all are done."""
    missing, waves = bank.missing_waves(None if turn is None else turn.number), bank.plan.waves
    if run is not None:
        _record_shards(run, bank)
    health, planned = _health(bank, turn), _planned(bank, turn)
    so_far = [] if health is None else [health]
    weight = 0.0 if turn is None or turn.student is None else turn.weight

    def require(health: Health) -> None:
        if _aims(bank):
            require_spread(health, planned=planned)  # of what this rank knows; the first looks at all in the end

    def store(wave: Wave, rows: int) -> None:
        if wave.waypoints is not None:  # before the shard: what the bank names has them
            shelf = waypoint_shelf(bank.path.parent / "checkpoints", bank.plan.wave_of(wave.sets.start))
            shelf.fill([Part(*wave.waypoints)])
        shard = bank.add(wave, rows_per_pass=rows, spent=course.spent, disagreement=weight)
        if _aims(bank):
            course.shows(on_target=f"{shard['health']['on_target']:.1%}")
        if run is not None:
            run.append_metrics("synthesis", **_shard_figures(bank, shard))
        so_far[:] = [Health.combine([*so_far, Health(**shard["health"])])]
        require(so_far[0])

    for one in so_far:
        require(one)
    with ShardWriter(store) as writer:
        course.watch(writer.check)
        try:
            while (number := course.next_turn()) < len(missing):
                after = number + course.ranks.world  # where all ranks are equally fast
                if after < len(missing):
                    engine.expect(waves[missing[after]])
                engine, wave = fitting_wave(engine, waves[missing[number]], course, reporter.warn)
                if engine.teacher.answers is not None:
                    engine = _still_the_same(bank, engine, asked_again(engine.teacher, engine.hardware), reporter)
                writer.put(wave, engine.rows_per_pass)
                del wave  # it is the writer's now: memory holds this one and the next
        except TimeIsUp:
            pass
    if engine.refused is not None:
        reporter.note(f"steps were taken one by one, not as a CUDA graph: {engine.refused}")
    engine.let_go()
    course.wait_for_all()


def _finish(bank: SampleBank, course: Course, turn: Turn | None) -> None:
    """Marks the bank as complete, with what all ranks have made, unless another round is to come."""
    if bank.is_complete:
        return
    bank.refresh()
    missing = bank.missing_waves(None if turn is None else turn.number)
    if not len(bank):
        raise RunError("not one set was finished within the time budget", "a longer --time-budget, or fewer --steps")
    if missing and not course.is_over_time:
        raise RunError(f"{len(missing)} waves of {bank.path} are missing", f"cake resume {bank.path}")
    if missing or turn is None or turn.number == bank.plan.rounds:
        bank.finish(spent=course.spent, reached=bool(missing))


def _tell(bank: SampleBank, turn: Turn | None, planned: int, stage: Stage, reporter: Reporter) -> None:
    """How the samples came out; raises `RunError` if they are degenerate, or there are none."""
    health, why = _health(bank, turn), bank.manifest.get("ended", "the time was up")
    if health is None and len(bank):  # of a round; those before it are the bank
        stage.conclude(f"none of {planned:,} planned samples: {why}")
        return
    if health is None:
        raise RunError("no samples were made", "--samples 20000")
    if _aims(bank):
        require_spread(health, planned=health.samples)
    cut = f"   of {planned:,} planned, when {why}" if health.samples < planned else ""
    stage.conclude(f"{health.samples:,} samples   {health.describe(aimed=_aims(bank))}{cut}")
    reporter.note(f"   {health.describe_labels()}")
    reporter.note(f"   by class: {health.describe_classes(bank.class_names)}")
    if (doubt := health.doubt(aimed=_aims(bank))) is not None:
        reporter.warn(doubt)


def _aims(bank: SampleBank) -> bool:
    """Whether samples are drawn towards labels."""
    return bank.manifest["synthesis"]["method"] not in LABELLED_ONLY


def _health(bank: SampleBank, turn: Turn | None) -> Health | None:
    """How the samples of a round came out, or of the whole bank; None before the first shard."""
    return bank.health if turn is None else bank.health_of(bank.of_round(turn.number))


def _planned(bank: SampleBank, turn: Turn | None) -> int:
    """How many samples a round is to have, or the whole bank."""
    plan = bank.plan
    return plan.samples if turn is None else len(plan.rounds_of_sets[turn.number - 1]) * plan.set_size


def _tell_of_the_others(bank: SampleBank, reporter: Reporter, run: RunDirectory | None) -> None:
    """What only this rank can say of all: their figures, and whether their memory ran out."""
    if run is not None:
        _record_shards(run, bank)
    rows, begun = rows_per_pass(bank, 0), bank.arithmetic["rows_per_pass"]
    if rows < begun:
        reporter.warn(f"memory ran out on a rank: some shards were made with {rows} samples in a pass, not {begun}")


# --- the record ---------------------------------------------------------------------------------------------------


def _record_shards(run: RunDirectory, bank: SampleBank) -> None:
    """Writes the figures of all shards again: those of a stopped run, or of other ranks, are among them."""
    figures = [_shard_figures(bank, shard) for shard in bank.manifest["shards"]]
    run.keep_metrics("synthesis", key="shard", below=0, then=figures)


def _shard_figures(bank: SampleBank, shard: dict[str, Any]) -> dict[str, float]:
    health = Health(**shard["health"])
    return {
        "shard": bank.plan.wave_of(shard["sets"][0]),
        "samples": health.samples,
        "step_size": shard["step_sizes"][0],
        "on_target": health.on_target,
        "confidence": health.confidence,
        "entropy": health.entropy,
        **shard["terms"],
    }
