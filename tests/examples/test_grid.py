"""The grid of teachers and students on a tiny budget."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TINY = ["--samples", "60", "--steps", "2", "--epochs", "1", "--teacher-epochs", "1", "--teachers", "mlp:8", "linear"]
SETS = ["--", "--set", "set_size=30"]


@pytest.fixture
def grid(example: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("sklearn")
    return example("grids/grid.py")


def test_every_pair_has_its_cell(grid: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["types", *TINY, "--students", "mlp:16", "--out", str(tmp_path)]
    assert grid.main([*command, "--seeds", "0", *SETS]) == 0
    record = tmp_path / "linear-to-mlp-0" / "run.json"
    before = record.read_bytes()
    assert grid.main([*command, "--seeds", "0", "1", *SETS]) == 0
    assert record.read_bytes() == before
    with (tmp_path / "types.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["teacher"], row["student"], row["seed"]) for row in rows] == [
        (teacher, "mlp", seed) for seed in "01" for teacher in ("mlp", "linear")
    ]
    assert all(0 <= float(row["noise_accuracy"]) <= 1 and row["error"] == "" for row in rows)
    table = capsys.readouterr().out
    assert "±" in table
    assert "passes of a cell: 180 forward + 120 backward" in table
    assert (tmp_path / "types.png").stat().st_size > 1000


def test_a_student_that_does_not_fit_is_in_the_table(grid: ModuleType, tmp_path: Path) -> None:
    assert grid.main(["types", *TINY, "--students", "lenet5", "--out", str(tmp_path), "--seeds", "0", *SETS]) == 2
    assert "failed, see the CSV file" in (tmp_path / "types.md").read_text(encoding="utf-8")


def test_the_ladder_is_of_resnets(grid: ModuleType) -> None:
    options = grid.parse(["ladder", "--samples", "10"])
    assert options.samples == 10
    assert options.steps == grid.GRIDS["ladder"].steps
    assert all(name.startswith("resnet") for name in options.teachers)
