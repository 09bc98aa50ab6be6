"""The comparison of ways to ask, on a tiny budget: each cell once, within its queries, in one table."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.cli.conftest import save_heldout
from tests.conftest import save_mlp


def test_every_way_keeps_to_its_queries(
    example: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blackbox = example("benchmarks/blackbox.py")
    teacher, data = save_mlp(tmp_path / "teacher.onnx"), save_heldout(tmp_path / "heldout.npz")
    command = [str(teacher), "--data", str(data), "--out", str(tmp_path / "out"), "--student", "linear", "--seeds", "0"]
    command += ["--queries", "500", "--steps", "2", "--directions", "2", "--updates", "4"]
    some = ["--only", "labels alone", "estimated", "querying in rounds", "--", "--set", "set_size=30"]
    assert blackbox.main([*command, *some]) == 0
    with (tmp_path / "out" / "blackbox.csv").open() as stream:
        rows = {row["way"]: row for row in csv.DictReader(stream)}
    assert {way: int(row["asked"]) for way, row in rows.items()} == {
        "labels alone": 480,
        "estimated": 330,
        "querying in rounds": 450,
    }
    assert "| estimated |" in capsys.readouterr().out
    record = tmp_path / "out" / "estimated-500-0" / "run.json"
    before = record.read_bytes()
    assert blackbox.main([*command, *some]) == 0
    assert record.read_bytes() == before
    assert (tmp_path / "out" / "blackbox.png").stat().st_size > 5000
