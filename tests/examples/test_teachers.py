"""The defaults on many teachers, on the one that ships with the examples."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TINY = ["--", "--samples", "400", "--steps", "2", "--rounds", "2", "--epochs", "1"]


@pytest.fixture
def teachers(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("benchmarks/teachers.py")


def test_a_teacher_stands_beside_its_noise_baseline(
    teachers: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert teachers.main(["--out", str(tmp_path), "--only", "digits", "makora_mnist_cnn.onnx", *TINY]) == 0
    said = capsys.readouterr()
    assert "makora_mnist_cnn.onnx: its file or its images are not there; left out" in said.err
    with (tmp_path / "teachers.csv").open(encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["teacher"], row["forward"], row["backward"], row["labelled"]) == ("digits", "1200", "800", "2800")
    assert float(row["teacher_accuracy"]) == pytest.approx(0.996)
    assert 0 <= float(row["noise_agreement"]) <= 1
    assert "| digits | digits | cnn | 99.6 % |" in said.out


def test_without_a_noise_baseline_its_columns_are_empty(
    teachers: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert teachers.main(["--out", str(tmp_path), "--only", "digits", *TINY, "--no-baseline"]) == 0
    said = capsys.readouterr()
    assert "noise not trained" in said.err
    assert said.out.rstrip().endswith(" % |  |  |")


def test_what_cake_refuses_is_a_line_of_its_own(teachers: ModuleType, tmp_path: Path) -> None:
    assert teachers.main(["--out", str(tmp_path), "--only", "digits", "--", "--student", "cnnn"]) == 1
    assert "| digits | digits | cnn | cake refused it" in (tmp_path / "teachers.md").read_text(encoding="utf-8")
