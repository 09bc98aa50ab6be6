"""``cake resume``: go on where a run or a bank stopped."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cake_cli.catalog import short_name
from cake_cli.cli import options as o
from cake_cli.cli.console import Console
from cake_cli.config import Config
from cake_cli.errors import DataError, UsageError
from cake_cli.text import as_argument

if TYPE_CHECKING:
    from cake_cli.models.blueprint import Blueprint
    from cake_cli.ranks import Ranks


def resume(
    path: Annotated[Path, typer.Argument(help="A run directory or a bank.", metavar="RUN")],
    formats: o.KeptFormats = None,
    disagreement: o.KeptDisagreement = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    progress: o.ProgressMode = "auto",
) -> None:
    """Go on where a run stopped: same directory, same result as if it had not stopped.

    Example: cake resume runs/teacher-to-resnet18-001
    """
    from cake_cli.cli.running import plan
    from cake_cli.cli.synthesize import make_bank
    from cake_cli.locks import held
    from cake_cli.ranks import Ranks
    from cake_cli.runs import RunDirectory
    from cake_cli.settings import build, read_file
    from cake_cli.storage import belongs_to, holds_only

    console = Console(quiet=quiet, verbose=verbose, json_output=json, progress=progress)
    is_run, config = (path / "run.json").is_file(), path / "config.toml"
    if not config.is_file():
        if belongs_to(path) != path:
            raise DataError(f"{path} is the bank of a run", f"cake resume {as_argument(belongs_to(path))}")
        raise DataError(f"{path} is neither a run nor a bank of cake's own", "cake resume RUN, with a folder of runs/")
    if is_run and belongs_to(path) != path and not RunDirectory.open(path).was_complete:
        whose = f"{path} is of one student of a run, whose labels and samples it shares"
        raise DataError(whose, f"cake resume {as_argument(belongs_to(path))}")
    asked = {} if formats is None else {"synthesis.formats": formats}
    settings = build(read_file(config) | asked, origin=str(config))
    if disagreement is not None and (path / "manifest.json").is_file():
        raise UsageError(
            f"{path} is a bank, and there is no student to differ from", f"cake resume {as_argument(path)}"
        )
    if is_run and disagreement is not None:
        settings = _with_disagreement(settings, path, disagreement)
    if not is_run and not (path / "manifest.json").is_file() and settings.student.architecture is not None:
        if not holds_only(path, "config.toml"):
            raise DataError(f"{path} is neither a run nor a bank of cake's own", "cake distill --config FILE")
        is_run = True  # killed before it said so
    told, settings = settings, _as_planned(settings, path) if is_run else settings
    with Ranks.current().joined(settings.hardware.device) as ranks:
        if is_run:
            with held(path) if ranks.is_first else nullcontext():
                _go_on_with_run(console, settings, path, ranks, told=None if disagreement is None else told)
        else:
            prepared, _ = plan(console, settings, path, student=False, ranks=ranks, goes_on=True)
            make_bank(console, prepared, path, ranks)


def _with_disagreement(settings: Config, path: Path, disagreement: float) -> Config:
    """The settings of a run with another weight for the samples to come."""
    from cake_cli.runs import RunDirectory

    if RunDirectory.open(path).was_complete:
        again = f"cake distill --config {as_argument(path / 'config.toml')} --disagreement {disagreement:g} -o NEW"
        raise UsageError(f"{path} is complete: no sample is left to be made with another --disagreement", again)
    return replace(settings, synthesis=replace(settings.synthesis, disagreement=disagreement))


def _as_planned(settings: Config, path: Path) -> Config:
    """The settings of a run with what is learned beside its samples as it was planned, by however many processes."""
    from cake_cli.runs import RunDirectory

    planned = RunDirectory.open(path).record.get("plan", {}) if (path / "run.json").is_file() else {}
    noise, ways = settings.training.noise_samples, settings.training.waypoints
    noise = planned.get("noise_samples") if noise is None else noise
    ways = planned.get("waypoints") if ways is None else ways
    return replace(settings, training=replace(settings.training, noise_samples=noise, waypoints=ways))


def _go_on_with_run(console: Console, settings: Config, path: Path, ranks: Ranks, *, told: Config | None) -> None:
    """Goes on with a run that this process holds; `told` is what it says of itself from now on, if that has changed."""
    from cake_cli.cli.running import assist_distillation, plan, run_distillation
    from cake_cli.runs import RunDirectory

    run = None
    if ranks.is_first:
        begun, command = (path / "run.json").is_file(), "distill" if settings.synthesis.bank is None else "train"
        run = RunDirectory.open(path) if begun else RunDirectory.begin(path, settings, command=command)
        if told is not None:
            run.configure(told)
    prepared, _ = plan(console, settings, path, student=True, ranks=ranks, goes_on=True)
    if run is None:
        assist_distillation(prepared, path, ranks)
        return
    teacher = (run.record.get("teacher") or {}).get("sha256", prepared.subject.sha256)
    if teacher != prepared.subject.sha256:
        raise DataError(
            f"the teacher's file has changed since {path} was started",
            "put the file back, or start a new run",
        )
    for name in run.record.get("students", {}):
        if name not in prepared.students:
            gone = f"{path} has a student {short_name(name)} that its config.toml no longer names"
            raise UsageError(gone, "name it there again, or start a new run")
    new = [name for name in prepared.students if name not in run.record.get("students", {})]
    if run.was_complete and len(prepared.students) > 1 and new:
        late = f"{path} is complete, and what {short_name(new[0])} would learn beside its bank is gone"
        raise UsageError(late, f"cake train {as_argument(path)} --student {as_argument(new[0])}")
    for name, recorded in run.record.get("blueprints", {}).items():
        _require_unchanged(recorded, prepared.blueprints.get(name), path)
    run_distillation(console, prepared, run, ranks)


def _require_unchanged(recorded: dict[str, Any], student: Blueprint | None, path: Path) -> None:
    """Refuses to go on with a student whose code or first weights are others than at the start."""
    now = {} if student is None else student.to_json()
    for key, what in (("code_sha256", "code"), ("init_sha256", "first weights")):
        before = recorded.get(key)
        if before is not None and before != now.get(key):
            raise DataError(
                f"the file of the student's {what} has changed since {path} was started",
                "put the file back, or start a new run",
            )
