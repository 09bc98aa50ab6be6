"""The comparison of ways to train, on a tiny budget."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.cli.conftest import save_heldout
from tests.conftest import save_mlp

TINY = ["--samples", "60", "--steps", "2", "--epochs", "1", "--student", "linear", "--real-samples", "60"]


def test_every_way_has_its_line(
    example: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = example("benchmarks/training.py")
    teacher, data = save_mlp(tmp_path / "teacher.onnx"), str(save_heldout(tmp_path / "heldout.npz"))
    real = tmp_path / "real.npz"
    np.savez(real, x=np.random.default_rng(1).integers(0, 256, (60, 4, 4), dtype=np.uint8), y=np.arange(60) % 3)
    command = [str(teacher), "--data", data, "--real-data", str(real), "--out", str(tmp_path / "out"), *TINY]
    ways = [way for way in training.WAYS if way not in ("view: shift", "view: flip")]  # the teacher takes vectors
    training.WAYS = {way: training.WAYS[way] for way in ways}
    assert training.main([*command, "--seeds", "0", "--", "--set", "set_size=30"]) == 0
    with (tmp_path / "out" / "training.csv").open() as stream:
        rows = {row["way"]: row for row in csv.DictReader(stream)}
    assert list(rows) == [*ways, *training.REAL]
    assert {way for way, row in rows.items() if row["data_free"] == "False"} == {*training.REAL, "Hinton and the bank"}
    assert rows[ways[0]]["noise_accuracy"] != ""
    table = capsys.readouterr().out
    assert "The same student on noise: " in table
    assert all(f"| {way} | " in table for way in rows)
