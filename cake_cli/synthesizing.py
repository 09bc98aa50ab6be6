"""The bank of a run, made or gone on with: waves over ranks, shards in the background, within memory and time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cake_cli.config import LABELLED_ONLY
from cake_cli.errors import DataError, RunError
from cake_cli.events import SILENT, Reporter
from cake_cli.hardware import is_out_of_memory
from cake_cli.locks import LOCK, held, is_left_over
from cake_cli.methods import generator_training, untrained_generator
from cake_cli.planning import Prepared, build_engine
from cake_cli.ranks import Ranks
from cake_cli.runs import RunDirectory
from cake_cli.storage import clear_leftovers
from cake_cli.synthesis.arithmetic import arithmetic_of, as_begun, differences, rows_per_pass, same_threads
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.copies import write_copies
from cake_cli.synthesis.course import Course, TimeIsUp
from cake_cli.synthesis.engine import Engine, Wave
from cake_cli.synthesis.fitting import fitting_wave, with_fewer_rows
from cake_cli.synthesis.health import Health, require_spread
from cake_cli.synthesis.writer import ShardWriter
from cake_cli.tuning import tune

FREE_SETTINGS = ("sets_at_once", "formats", "bank")
"""Settings that may differ when a bank is gone on with: what its samples are does not follow from them."""


def synthesize(
    prepared: Prepared,
    path: Path,
    reporter: Reporter,
    run: RunDirectory | None = None,
    ranks: Ranks | None = None,
) -> SampleBank:
    """Makes the bank, or goes on with one that a stopped run left. All ranks of a job call this together.

    Args:
        prepared: of the run; has a teacher.
        path: folder of the bank.
        reporter: told of the course.
        run: run directory that keeps the figures of each shard, if there is one; only the first rank gives it.
        ranks: the processes that share the work; by default there is one.

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
        if prepared.config.synthesis.method == "generative" and not bank.is_complete:
            engine = _with_generator(engine, prepared, path / "generator.safetensors", reporter, ranks)
        with reporter.stage("synthesis", bank.plan.samples, "samples") as stage:
            stage.advance(len(bank))
            course = Course(stage, ranks, spent=bank.seconds_spent, budget=bank.budget)
            with same_threads(bank):
                _make_waves(engine, bank, course, reporter, run)
            if ranks.is_first:
                _finish(bank, course)
                health = _require_health(bank, planned=len(bank))
                stage.conclude(_told(bank, health))
                reporter.note(f"   {health.describe_labels()}")
                reporter.note(f"   by class: {health.describe_classes(bank.class_names)}")
                if (doubt := health.doubt()) is not None:
                    reporter.warn(doubt)
        if ranks.is_first:
            if not ranks.is_alone:
                _tell_of_the_others(bank, reporter, run)
            write_copies(bank, prepared.config.synthesis.formats, reporter)
        ranks.barrier()
    return bank if ranks.is_first else SampleBank.open(path)


def _engine(prepared: Prepared) -> Engine:
    if prepared.teacher is None:
        raise DataError("a bank cannot be made without its teacher", "cake synthesize TEACHER -o BANK")
    settings, seed = prepared.config.synthesis, prepared.config.seed
    return build_engine(settings, prepared.teacher, prepared.plan, seed=seed, hardware=prepared.hardware)


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
    begun = bank.manifest["synthesis"]
    if bank.manifest["seed"] != prepared.config.seed or _binding(begun) != _binding(asdict(settings)):
        raise DataError(f"the bank {path} was begun with other settings", "choose another --out")
    for difference in differences(bank, arithmetic_of(as_begun(engine, bank)), settings.sets_at_once):
        reporter.note(difference)
    bank.fold()
    bank.clear_leftovers()


def _about(prepared: Prepared, engine: Engine) -> dict[str, Any]:
    """What the manifest says of the objective: the weights that the settings came to, and what leaves the contract."""
    weights = {} if prepared.config.synthesis.only_labels else engine.objective.weights
    return {"objective": weights, "outside_contract": list(prepared.outside_contract)}


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


def _make_waves(engine: Engine, bank: SampleBank, course: Course, reporter: Reporter, run: RunDirectory | None) -> None:
    """Makes what is missing of the bank: each rank the next wave that none has taken, until all are done."""
    missing, waves, planned = bank.missing_waves(), bank.plan.waves, bank.plan.samples
    if run is not None:
        _record_shards(run, bank)
    so_far = [_require_health(bank, planned=planned)] if len(bank) else []

    def store(wave: Wave, rows: int) -> None:
        shard = bank.add(wave, rows_per_pass=rows, spent=course.spent)
        course.shows(on_target=f"{shard['health']['on_target']:.1%}")
        if run is not None:
            run.append_metrics("synthesis", **_shard_figures(bank, shard))
        so_far[:] = [Health.combine([*so_far, Health(**shard["health"])])]
        if bank.manifest["synthesis"]["method"] not in LABELLED_ONLY:
            require_spread(so_far[0], planned=planned)  # of what this rank knows; the first looks at all in the end

    with ShardWriter(store) as writer:
        course.watch(writer.check)
        try:
            while (turn := course.next_turn()) < len(missing):
                after = turn + course.ranks.world  # where all ranks are equally fast
                if after < len(missing):
                    engine.expect(waves[missing[after]])
                engine, wave = fitting_wave(engine, waves[missing[turn]], course, reporter.warn)
                writer.put(wave, engine.rows_per_pass)
                del wave  # it is the writer's now: memory holds this one and the next
        except TimeIsUp:
            pass
    if engine.refused is not None:
        reporter.note(f"steps were taken one by one, not as a CUDA graph: {engine.refused}")
    course.wait_for_all()


def _finish(bank: SampleBank, course: Course) -> None:
    """Marks the bank as complete, with what all ranks have made."""
    if bank.is_complete:
        return
    bank.refresh()
    missing = bank.missing_waves()
    if not len(bank):
        raise RunError("not one set was finished within the time budget", "a longer --time-budget, or fewer --steps")
    if missing and not course.is_over_time:
        raise RunError(f"{len(missing)} waves of {bank.path} are missing", f"cake resume {bank.path}")
    bank.finish(spent=course.spent, reached=bool(missing))


def _told(bank: SampleBank, health: Health) -> str:
    """The closing line of the stage."""
    aimed = bank.manifest["synthesis"]["method"] not in LABELLED_ONLY
    cut = f"   of {bank.plan.samples:,} planned, when the time was up" if len(bank) < bank.plan.samples else ""
    return f"{len(bank):,} samples   {health.describe(aimed=aimed)}{cut}"


def _require_health(bank: SampleBank, *, planned: int) -> Health:
    """How the samples came out; raises `RunError` if they are degenerate, or there are none."""
    health = bank.health
    if health is None:
        raise RunError("no samples were made", "--samples 8000")
    if bank.manifest["synthesis"]["method"] not in LABELLED_ONLY:
        require_spread(health, planned=planned)
    return health


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
        "shard": shard["sets"][0] // bank.plan.at_once,
        "samples": health.samples,
        "step_size": shard["step_sizes"][0],
        "on_target": health.on_target,
        "confidence": health.confidence,
        "entropy": health.entropy,
        **shard["terms"],
    }
