"""The comparison of methods on a tiny budget: each cell once, resumable, in one table."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.cli.conftest import save_heldout
from tests.conftest import save_mlp

TINY = ["--samples", "60", "--steps", "2", "--epochs", "1", "--student", "linear"]
SETS = ["--", "--set", "set_size=30"]


@pytest.fixture
def methods(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("benchmarks/methods.py")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    teacher, data = save_mlp(tmp_path / "teacher.onnx"), save_heldout(tmp_path / "heldout.npz")
    return [str(teacher), "--data", str(data), "--out", str(tmp_path / "out"), *TINY]


def test_every_method_has_its_cell(
    methods: ModuleType, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert methods.main([*command, "--seeds", "0", *SETS]) == 0
    table = capsys.readouterr().out
    assert [line.split(" | ")[0].strip("| ") for line in table.splitlines() if line.startswith("| ")][2:] == list(
        methods.METHODS
    )
    with (tmp_path / "out" / "methods.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["method"] for row in rows] == list(methods.METHODS)
    assert {row["error"] for row in rows} == {""}
    costs = {row["method"]: (int(row["forward"]), int(row["backward"])) for row in rows}
    assert costs.pop("noise") == costs.pop("smooth noise") == (60, 0)
    assert set(costs.values()) == {(180, 120)}, "all others cost the teacher as much"


def test_what_is_there_is_not_made_again(methods: ModuleType, command: list[str], tmp_path: Path) -> None:
    some = ["--only", "naive", "cake, snn"]
    assert methods.main([*command, *some, "--seeds", "0", *SETS]) == 0
    record = tmp_path / "out" / "naive-0" / "run.json"
    before = record.read_bytes()
    assert methods.main([*command, *some, "--seeds", "0", "1", *SETS]) == 0
    assert record.read_bytes() == before
    assert "±" in (tmp_path / "out" / "methods.md").read_text(encoding="utf-8")
    stopped = json.loads(before) | {"status": "interrupted"}
    record.write_text(json.dumps(stopped))
    assert methods.main([*command, *some, "--seeds", "0", *SETS]) == 0
    assert json.loads(record.read_text())["status"] == "complete"


def test_a_cell_that_fails_is_in_the_table(methods: ModuleType, command: list[str], tmp_path: Path) -> None:
    diverging = ["--", "--set", "set_size=30", "--set", "training.lr=1e30", "--epochs", "9"]
    assert methods.main([*command, "--only", "naive", "--seeds", "0", *diverging]) == 1
    assert "training loss is not finite" in (tmp_path / "out" / "methods.md").read_text(encoding="utf-8")
