"""What `distill`, `train`, `synthesize` and `resume` have in common: prepare, show the plan, run, end well."""

from __future__ import annotations

import os
import re
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cake_cli.address import as_address
from cake_cli.catalog import is_source, read_student, short_name
from cake_cli.cli.console import Console, count, duration
from cake_cli.config import Config
from cake_cli.errors import AgreementMissed, CakeError, RunError
from cake_cli.text import as_argument

if TYPE_CHECKING:
    from cake_cli.estimating import Estimate
    from cake_cli.planning import Prepared
    from cake_cli.ranks import Ranks
    from cake_cli.runs import RunDirectory


OFF = (23, 44)
"""Points by which real agreement was below, and above, the expected one at most, of students whose rounds start from
scenes: examples/benchmarks/RESULTS.md."""

UNBEGUN = "interrupted before anything was done"


class Interrupted(CakeError):
    """Ctrl-C or SIGTERM, with what to type to go on."""

    exit_code = 130


class RankDied(RunError):
    """Another rank of the job was killed, and torchrun ends this one; with what to type to go on."""


def absolute(config: Config, resolve: Callable[[Path], Path] = Path.resolve) -> Config:
    """The configuration with paths that hold from any folder; by default the links among them are followed."""

    def full(path: str | None) -> str | None:
        if path is None or as_address(path) is not None:
            return path
        file, colon, function = path.rpartition(".py:")
        if colon:
            return f"{resolve(Path(file))}{colon}{function}"
        there = os.path.exists(path)  # noqa: PTH110  (a class map may be longer than the name of any file)
        return str(resolve(Path(path))) if there else path

    def named(student: str | None) -> str | None:
        """An architecture's name is none of a file, whatever lies here."""
        return student if student is None or read_student(student).kind not in ("source", "file") else full(student)

    return replace(
        config,
        student=replace(
            config.student,
            architecture=named(config.student.architecture),
            others=tuple(named(other) or other for other in config.student.others),
            weights=full(config.student.weights),
        ),
        teacher=replace(
            config.teacher,
            file=full(config.teacher.file),
            arch=full(config.teacher.arch) if is_source(config.teacher.arch or "") else config.teacher.arch,
        ),
        synthesis=replace(config.synthesis, bank=full(config.synthesis.bank)),
        training=replace(config.training, real_data=full(config.training.real_data)),
        evaluation=replace(
            config.evaluation,
            data=full(config.evaluation.data),
            data_root=full(config.evaluation.data_root),
            class_map=full(config.evaluation.class_map),
        ),
    )


def files_read(config: Config) -> list[Path]:
    """The files and folders that a run with these settings needs, by absolute paths; of links, where they lie, too."""
    named: list[str] = []
    for full in (absolute(config), absolute(config, Path.absolute)):
        student, data = full.student, full.evaluation
        given = [full.teacher.file, full.teacher.arch, student.architecture, *student.others, student.weights]
        given += [full.synthesis.bank, full.training.real_data, data.data, data.data_root, data.class_map]
        named += [path for path in given if path is not None]
    files = [path if found is None else found[1] for path in named for found in (re.fullmatch(r"(.*\.py):.*", path),)]
    return [Path(file) for file in files if os.path.isabs(file) and os.path.exists(file)]  # noqa: PTH110, PTH117


def plan(
    console: Console, config: Config, out: Path, *, student: bool, ranks: Ranks, goes_on: bool = False
) -> tuple[Prepared, Estimate]:
    """Prepares a run, times a step, and shows what was understood; all ranks call this together.

    With `goes_on` what was begun in `out` keeps its plan; else it will be moved aside.
    """
    from cake_cli.cli.summary import show_plan
    from cake_cli.estimating import require_room, settle
    from cake_cli.planning import prepare

    shown = console.progress == "bar"
    try:
        with console.stderr.status("opening the teacher, timing a step") if shown else nullcontext():
            begun = (out / "bank" if student else out) if goes_on else None
            prepared, cost = settle(prepare(config, student=student, begun=begun), begun, ranks)
    except KeyboardInterrupt:
        raise Interrupted(UNBEGUN, "the same command") from None
    show_plan(console, prepared, cost, out)
    require_room(prepared, cost, out)
    return prepared, cost


def plan_json(prepared: Prepared, cost: Estimate, out: Path) -> dict[str, Any]:
    """What `--dry-run --json` prints."""
    sets = prepared.plan
    samples = prepared.samples
    fresh = prepared.synthesizes
    asked, is_asked = 0, as_address(prepared.config.teacher.file or "") is not None  # nobody knows its size
    if fresh and sets.rounds > 1 and prepared.config.synthesis.disagreement_weight > 0:
        asked = (samples - len(sets.rounds_of_sets[0]) * sets.set_size) * prepared.config.synthesis.steps
    return {
        "dry_run": True,
        "out": str(out),
        "teacher": None if prepared.teacher is None else prepared.teacher.name,
        "student": prepared.architecture,
        "students": list(prepared.students),
        "sizes": {
            "teacher": None if prepared.teacher_size is None or is_asked else asdict(prepared.teacher_size),
            "student": None if prepared.student is None else asdict(prepared.student.size),
            "students": {name: asdict(student.size) for name, student in prepared.blueprints.items()},
        },
        "samples": samples,
        "real_samples": None if prepared.real is None else prepared.real.samples,
        "data_free": prepared.real is None,
        "sets": sets.sets,
        "rounds": sets.rounds,
        "outside_contract": list(prepared.outside_contract),
        "teacher_passes": asdict(prepared.planned_passes),
        "noise_samples": prepared.noise_samples,
        "waypoints": prepared.waypoints,
        "chosen_samples": prepared.chosen_samples,
        "student_passes": {"forward": asked, "backward": asked},
        "seconds": {name: round(value, 1) for name, value in cost.seconds.items()},
        "disk_bytes": cost.disk,
        "memory_bytes": cost.memory,
    }


def stopped(kept: str, folder: Path, bank: Path, ranks: Ranks) -> CakeError:
    """What Ctrl-C or SIGTERM means: the user's wish, or the end of a job of which a rank has died.

    Args:
        kept: what is not lost.
        folder: to go on with.
        bank: that the ranks worked on.
        ranks: the processes of the job.
    """
    from cake_cli.synthesizing import dead_ranks

    command = f"cake resume {as_argument(folder)}"
    dead = dead_ranks(bank, ranks) if not ranks.is_alone else []
    if dead and set(range(ranks.rank)) <= set(dead):  # the first that lives says it
        which = f"rank {dead[0]}" if len(dead) == 1 else f"ranks {', '.join(map(str, dead))}"
        return RankDied(
            f"{which} of {ranks.world} died without a word (killed, perhaps for memory); {kept}",
            f"{command}, with as many ranks as you like",
        )
    return Interrupted(f"interrupted; {kept}", command)


@contextmanager
def begun_whole(folder: Path) -> Iterator[None]:
    """Ctrl-C or SIGTERM while a run's folder is made, which takes a moment: says whether there is one to go on with."""
    try:
        yield
    except KeyboardInterrupt:
        again = f"cake resume {as_argument(folder)}" if (folder / "config.toml").is_file() else "the same command"
        raise Interrupted(UNBEGUN, again) from None


def assist_distillation(prepared: Prepared, path: Path, ranks: Ranks) -> None:
    """What a rank after the first does in a distillation; raises as `run_distillation`."""
    from cake_cli.pipeline import assist

    try:
        with terminable():
            assist(prepared, path, ranks)
    except KeyboardInterrupt:
        raise stopped("nothing is lost", path, path / "bank", ranks) from None


def run_distillation(console: Console, prepared: Prepared, run: RunDirectory, ranks: Ranks) -> dict[str, Any]:
    """Runs or goes on with a run directory, and says how it ended; for the first rank.

    Raises:
        Interrupted: on Ctrl-C or SIGTERM; the run can be resumed.
        RankDied: if another rank was killed; likewise.
        CakeError: what stopped it, recorded in run.json.
    """
    from cake_cli.cli.progress import reporter_of
    from cake_cli.pipeline import distill, result
    from cake_cli.recording import RecordingReporter

    reporter = RecordingReporter(reporter_of(console), run)
    try:
        with terminable():
            outcome = distill(prepared, run, reporter, ranks)
    except KeyboardInterrupt:
        end = stopped("nothing is lost", run.path, run.bank_path, ranks)
        run.finish("interrupted", fault=end if isinstance(end, RankDied) else None)
        raise end from None
    except AgreementMissed:
        show_outcome(console, result(run))
        raise
    except CakeError as fault:
        run.finish("failed", fault=fault)
        run.log([f"error: {fault.what}"])
        raise
    except Exception as fault:
        run.finish("failed", fault=fault)
        run.log(traceback.format_exc().splitlines())
        raise
    show_outcome(console, outcome)
    return outcome


def show_outcome(console: Console, outcome: dict[str, Any]) -> None:
    """After a run: one table, where things are, the next command; or JSON; or only the students' paths."""
    if console.json_output:
        console.json(outcome)
        return
    several = outcome.get("students")
    each = [outcome] if several is None else [one | {"name": short_name(name)} for name, one in several.items()]
    if not console.quiet:
        console.say()
        rows = [row for one in each if one["evaluation"] for row in _rows(one, alone=several is None)]
        if rows:
            rows = [row for index, row in enumerate(rows) if row not in rows[:index]]  # the teacher, once
            console.table(["", "accuracy", "95 % interval", "agreement"], rows)
            console.say()
        console.facts("done", _facts(outcome, each))
    for one in each:
        console.result(one["student"])


def _facts(outcome: dict[str, Any], each: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Where things are, what they cost, and what next."""
    passes, spent = outcome["teacher_passes"], dict(outcome["seconds"])
    if len(each) > 1:
        spent |= {one["name"]: sum(one["seconds"].values()) for one in each}
    facts = [("student", one["student"]) for one in each]
    facts += [(file["format"], file["path"]) for one in each for file in one["exports"]]
    facts.append(("report", outcome["report"] or "not written (--no-report)"))
    if not outcome["data_free"]:
        facts.append(("data", "NOT data-free: real data trained the student"))
    forward = passes["forward"] + (outcome["training_passes"] or {"forward": 0})["forward"]
    cost = f"{count(forward)} forward and {count(passes['backward'])} backward teacher passes, "
    if (asked := outcome["student_passes"]) and any(asked.values()):
        cost += f"{count(asked['forward'])} and {count(asked['backward'])} student passes, "
    facts += _expected(outcome["expected_agreement"])
    return [*facts, ("cost", cost + duration(sum(spent.values()))), ("next", _next_command(outcome))]


def _expected(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What is known of the student without real data: of the state before the last round, which it had not seen."""
    if found is None:
        return []
    share = f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%})"
    facts = [("expected agreement", f"{share} on {found['on']} of round {found['round']}, before learning from it")]
    if found["starts"] == "scenes":  # others are further off
        facts.append(("its error", f"{OFF[0]} points too high to {OFF[1]} too low on test images of benchmarks"))
    return facts


def _rows(outcome: dict[str, Any], *, alone: bool) -> list[list[str]]:
    rows, evaluation = [], outcome["evaluation"]
    own = "" if alone else outcome["name"]
    names = {"student": own or "student", "noise_baseline": f"{own or 'student'} of noise"}
    for name in ("teacher", "student", "noise_baseline"):
        figures = evaluation["models"].get(name)
        if figures is not None:
            low, high = figures["accuracy_interval"]
            agreement = figures["agreement"]
            rows.append(
                [
                    names.get(name, name),
                    f"{figures['accuracy']:.2%}",
                    f"{low:.1%} to {high:.1%}",
                    "" if agreement is None or name == "teacher" else f"{agreement:.2%}",
                ]
            )
    return rows


def _next_command(outcome: dict[str, Any]) -> str:
    run = as_argument(outcome["run"])
    if "students" in outcome:
        return f"cake inspect {run}"
    student = outcome["architecture"]
    code = f" --arch {as_argument(student)}" if student and is_source(student) else ""
    return f"cake evaluate {run}{code} --data DATA" if outcome["evaluation"] is None else f"cake inspect {run}"


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends like Ctrl-C inside: recorded and resumable.

    Of several ranks each has one such end: torchrun signals them again and again until they are gone. The first, which
    speaks for all, is not interrupted when it is about to say what went wrong.
    """
    from cake_cli.ranks import Ranks

    ranks = Ranks.current()

    def ignore() -> None:
        for name in before if not ranks.is_alone else ():
            signal.signal(name, signal.SIG_IGN)

    def interrupt(number: int, frame: object) -> None:
        ignore()
        raise KeyboardInterrupt

    names = (signal.SIGTERM,) if ranks.is_alone else (signal.SIGTERM, signal.SIGINT)
    before = {name: signal.signal(name, interrupt) for name in names}
    try:
        yield
    except Exception:
        if ranks.is_first:
            ignore()
        raise
    finally:
        for name, handler in before.items():
            if signal.getsignal(name) is interrupt:
                signal.signal(name, handler)
