"""``cake report``: the HTML page of a run, again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cake_cli.cli.console import Console


def report(path: Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN")]) -> None:
    """Write report.html and its pictures again from what the run recorded."""
    from cake_cli.report.page import write_report
    from cake_cli.runs import RunDirectory

    run = RunDirectory.open(path)
    for one in [*run.students().values(), run]:
        Console().result(str(write_report(one)))
