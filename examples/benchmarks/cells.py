"""Cells of a comparison: each is a run directory of `cake`, made where it is missing, gone on with, or read."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cake_cli.cli.app import run


def own_and_passed_on(arguments: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """A script's arguments, of the command line by default: its own, and those after ``--``, which go to `cake`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    return given[:cut], given[cut + 1 :]


def make_cell(path: Path, *command: object) -> dict[str, Any] | None:
    """The record (run.json) of `cake *command --out path`, as far as it has come; None if it was refused.

    A cell that is there is not made again, and one that was stopped is gone on with.
    """
    record = path / "run.json"
    if not record.exists():
        _cake(*command, "--out", path)
    elif _read(record)["status"] != "complete":
        _cake("resume", path)
    return _read(record) if record.exists() else None


def made(file: Path, *command: object) -> bool:
    """Whether a file is there, if need be by a command."""
    if not file.exists():
        _cake(*command)
    return file.exists()


def _cake(*arguments: object) -> None:
    """A command of `cake` in this process; what goes wrong is in the run's record, and on stderr."""
    with contextlib.redirect_stdout(io.StringIO()):
        code = run([*map(str, arguments), "--progress", "none"])
    if code == 130:
        raise KeyboardInterrupt


def _read(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def fault_of(record: dict[str, Any] | None) -> str:
    """Why there is no result; empty where there is one."""
    if record is None:
        return "cake refused it: see above"
    return "" if record["status"] == "complete" else str(record.get("error") or record["status"])


def write_csv(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """One line a cell."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def spread(values: Sequence[float]) -> str:
    """``97.1 ± 0.4 %``: mean and standard deviation of shares."""
    shares = [100 * value for value in values]
    deviation = f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{statistics.mean(shares):.1f}{deviation} %"
