"""``cake resume``: go on where a run or a bank stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cake_cli.cli import options as o
from cake_cli.cli.console import Console
from cake_cli.errors import DataError


def resume(
    path: Annotated[Path, typer.Argument(help="A run directory or a bank.", metavar="RUN")],
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    progress: o.ProgressMode = "auto",
) -> None:
    """Go on where a run stopped: same directory, same result as if it had not stopped.

    Example: cake resume runs/teacher-to-resnet18-001
    """
    from cake_cli.cli.running import plan, run_distillation
    from cake_cli.cli.synthesize import make_bank
    from cake_cli.runs import RunDirectory
    from cake_cli.settings import build, read_file

    console = Console(quiet=quiet, verbose=verbose, json_output=json, progress=progress)
    if (path / "run.json").is_file():
        run = RunDirectory.open(path)
        prepared, _ = plan(console, run.config(), path, student=True)
        recorded = (run.record.get("teacher") or {}).get("sha256", prepared.subject.sha256)
        if recorded != prepared.subject.sha256:
            raise DataError(
                f"the teacher's file has changed since {path} was started",
                "put the file back, or start a new run",
            )
        run_distillation(console, prepared, run)
        return
    if not (path / "manifest.json").is_file() or not (path / "config.toml").is_file():
        raise DataError(f"{path} is neither a run nor a bank of cake", "cake resume RUN, with a folder of runs/")
    settings = build(read_file(path / "config.toml"), origin=str(path / "config.toml"))
    prepared, _ = plan(console, settings, path, student=False)
    make_bank(console, prepared, path)
