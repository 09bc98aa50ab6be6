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


def test_sets_are_those_of_the_teachers_classes_where_they_fill_the_rounds(
    example: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    blackbox = example("benchmarks/blackbox.py")
    teacher, data = save_mlp(tmp_path / "teacher.onnx"), save_heldout(tmp_path / "heldout.npz")
    command = [str(teacher), "--data", str(data), "--out", str(tmp_path / "out"), "--student", "linear", "--seeds", "0"]
    assert blackbox.main([*command, "--queries", "500", "--updates", "4", "--only", "labels alone"]) == 0
    with (tmp_path / "out" / "blackbox.csv").open() as stream:
        assert int(next(csv.DictReader(stream))["asked"]) == 495, "five sets of 99, of three classes"


def test_labels_beside_are_within_the_queries(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    blackbox = example("benchmarks/blackbox.py")
    teacher, data = save_mlp(tmp_path / "teacher.onnx"), save_heldout(tmp_path / "heldout.npz")
    command = [str(teacher), "--data", str(data), "--out", str(tmp_path / "out"), "--student", "linear", "--seeds", "0"]
    command += ["--queries", "1000", "--steps", "2", "--rounds", "2", "--updates", "4"]
    assert blackbox.main([*command, "--only", "querying in rounds, labels beside", "--", "--set", "set_size=30"]) == 0
    with (tmp_path / "out" / "blackbox.csv").open() as stream:
        row = next(csv.DictReader(stream))
    assert (int(row["samples"]), int(row["asked"])) == (90, 90 * 3 + 720), "700 labels beside, in sets of 30"
