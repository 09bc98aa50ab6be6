"""What correlations are of, on students whose agreement is known."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def foretelling(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("benchmarks/foretelling.py")


def cell(seed: int, entries: list[tuple[float | None, float, float | None]]) -> dict[str, Any]:
    rounds = [
        {
            "round": number,
            "expected": {"value": moved if expected is None else expected},
            "moved": {"value": moved},
            "real": real,
        }
        for number, (expected, moved, real) in enumerate(entries, start=2)
    ]
    return {"pair": "digits", "passes": 9, "variant": "loop", "seed": seed, "rounds": rounds}


def test_within_runs_and_over_all_students(foretelling: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rising = [(0.1, 0.35, 0.2), (0.2, 0.3, 0.3), (0.3, 0.25, 0.4)]
    falling = [(0.5, 0.1, 0.8), (0.6, 0.2, 0.7), (0.7, 0.3, 0.6), (0.7, 0.3, None)]
    students = foretelling.students_of_rounds([cell(0, rising), cell(1, falling), {"rounds": None}])
    assert len(students) == 6, "the last of the second run was not measured"
    expected, moved = foretelling.foretold(students)[2:]
    assert "| 0.00 (-1.00 to 1.00; 2 runs) | 0.86 (6 students) | -0.10 to +0.30 |" in expected
    assert "| -1.00 (-1.00 to -1.00; 2 runs) |" in moved
    path = tmp_path / "rounds.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, foretelling.ROUND_COLUMNS)
        writer.writeheader()
        writer.writerows(students)
    assert foretelling.main([str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [expected, moved]


def test_rounds_with_nothing_beside_have_no_expected_agreement_on_starting_points(foretelling: ModuleType):
    students = foretelling.students_of_rounds([cell(0, [(None, 0.1, 0.2), (None, 0.2, 0.3), (None, 0.4, 0.4)])])
    assert [student["expected"] for student in students] == [None] * 3
    assert len(foretelling.foretold(students)) == 3
    assert foretelling.foretold([]) == []
