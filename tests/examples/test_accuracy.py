"""The comparison at equal teacher passes on a tiny budget."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

TINY = ["digits", "--steps", "2", "--epochs", "1", "--seeds", "0", "--rounds", "4"]


@pytest.fixture
def accuracy(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("benchmarks/accuracy.py")


def counted(accuracy: ModuleType, options: object, variant: str, budget: int) -> float:
    """The passes that the flags of a variant come to, where nothing has to be drawn again."""
    cell = accuracy.Cell("digits", budget, variant, accuracy.VARIANTS[variant], 0)
    flags = [str(flag) for flag in accuracy.flags_of(cell, options)]
    given = dict(pairwise(flags))
    samples, epochs = int(given["--samples"]), int(given["--epochs"])
    own = dict(flag.split("=") for flag in flags if flag.startswith("training."))
    beside, ways = int(own.get("training.noise_samples", 0)), int(own.get("training.waypoints", 0))
    steps = 0 if "noise" in given.get("--method", "") else int(given["--steps"])
    viewed = (1.5 if "--rounds" in given else 1) * epochs * (samples * (1 + ways) + beside) if "--views" in given else 0
    return samples * (2 * steps + 1) + beside + viewed


def test_every_variant_keeps_within_the_budget(accuracy: ModuleType):
    options = accuracy.parse(["digits"])
    for variant in accuracy.VARIANTS:
        assert 0.75 * 500_000 < counted(accuracy, options, variant, 500_000) <= 500_000, variant


def test_cells_are_made_once(accuracy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    chosen = ["--only", "cake", "rounds, disagreement", "--passes", "2000", "--out", str(tmp_path)]
    assert accuracy.main([*TINY, *chosen]) == 0
    lines = (tmp_path / "cells.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [row["variant"] for row in rows] == ["cake", "rounds, disagreement"]
    assert [row["counted"] for row in rows] == [2000, 2000]
    assert [entry["real"] is not None for entry in rows[1]["rounds"]] == [False, True, True, True]
    with (tmp_path / "digits-rounds.csv").open() as stream:
        assert [row["round"] for row in csv.DictReader(stream)] == ["2", "3", "4"]
    assert not list(tmp_path.glob("runs/*/bank"))
    assert accuracy.main([*TINY, *chosen]) == 0
    assert (tmp_path / "cells.jsonl").read_text(encoding="utf-8") == lines
    with (tmp_path / "digits.csv").open() as stream:
        assert [row["variant"] for row in csv.DictReader(stream)] == ["cake", "rounds, disagreement"]
    assert "2,000 counted teacher passes" in capsys.readouterr().out
    assert (tmp_path / "digits.png").stat().st_size > 1000


def test_several_budgets_are_an_axis(accuracy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    known = {"pair": "digits", "variant": "loop", "seed": 0, "error": "", "accuracy": 0.9, "agreement": 0.9,
             "teacher_accuracy": 1.0, "samples": 100, "learned_rows": 100}  # fmt: skip
    lines = [json.dumps({**known, "passes": passes, "counted": passes}) for passes in (2000, 20_000, 200_000)]
    (tmp_path / "cells.jsonl").write_text("\n".join(lines), encoding="utf-8")
    chosen = ["--only", "loop", "noise", "--passes", "2000", "20000", "200000", "--seeds", "0", "1"]
    assert accuracy.main(["digits", *chosen, "--out", str(tmp_path), "--known"]) == 0
    with (tmp_path / "digits.csv").open() as stream:
        assert [row["passes"] for row in csv.DictReader(stream)] == ["2000", "20000", "200000"]
    assert capsys.readouterr().out.count("| loop |") == 3
    assert not (tmp_path / "runs").exists(), "--known runs nothing"
    assert (tmp_path / "digits.png").stat().st_size > 1000


def test_the_winner_without_each_of_its_parts(accuracy: ModuleType):
    assert accuracy.left_out(("smooth", "rounds", "ema")) == {
        "all": ("smooth", "rounds", "ema"),
        "without smooth": ("rounds", "ema"),
        "without rounds": ("smooth", "ema"),
        "without ema": ("smooth", "rounds"),
    }
    with pytest.raises(SystemExit):
        accuracy.parse(["digits", "--leave-one-out", "smooth,magic"])
