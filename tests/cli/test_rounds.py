"""Rounds as a user meets them: the command, a kill, `cake resume`, and a bank that `cake train` learns from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import TRAINING, digest, record, refusal, weights
from tests.cli.killing import killed
from tests.conftest import Outcome, save_mlp

Cake = Callable[..., Outcome]
ROUNDS = ["--samples", "90", "--steps", "2", "--set", "set_size=30", *TRAINING, "--student", "mlp:8", "--no-report",
          "--rounds", "3"]  # fmt: skip
"""Three shards, each a round."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher, and once it was made with an undisturbed run."""
    folder = tmp_path_factory.mktemp("rounds")
    save_mlp(folder / "teacher.onnx")
    return folder


@pytest.fixture
def whole(cake: Cake, place: Path) -> Path:
    if not (place / "run").exists():
        assert cake("distill", place / "teacher.onnx", *ROUNDS, "-o", place / "run").code == 0
    return place / "run"


def test_what_is_shown(cake: Cake, place: Path, own_folder: Path):
    shown = cake("distill", place / "teacher.onnx", *ROUNDS, "-o", "run")
    assert shown.code == 0
    assert (
        "90 samples x 2 steps (cake) in 3 rounds, 630 starting points labelled beside, 1 point on the way of each, "
        "2 epochs and 2 to 0.75 epochs after each round" in shown.err
    )
    assert "expected agreement" in shown.err
    assert "its error" in shown.err
    normal = cake("distill", place / "teacher.onnx", *ROUNDS, "--set", "synthesis.init=normal", "-o", "normal").err
    assert "expected agreement" in normal
    assert "its error" not in normal, "the benchmarks' figure is of scenes"
    assert "student passes" in shown.err
    outcome = json.loads(cake("resume", "run", "--json").out)
    assert outcome["teacher_passes"] == {"forward": 270, "backward": 180}
    assert outcome["student_passes"] == {"forward": 120, "backward": 120}
    assert [entry["round"] for entry in outcome["rounds"]] == [1, 2, 3]
    assert outcome["expected_agreement"]["round"] == 3


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("target", "time"),
    [
        ("round-1.pt", 1),
        ("student-2", 1),
        ("manifest.json", 2),
        ("shard-00001", 1),
        ("round-2.pt", 1),
        ("training.pt", 1),
    ],
)
def test_killed_anywhere_and_gone_on_with(
    cake: Cake, place: Path, whole: Path, own_folder: Path, target: str, time: int
):
    assert killed(own_folder, ["distill", place / "teacher.onnx", *ROUNDS, "-o", "run"], target, time) == -9
    resumed = cake("resume", "run")
    assert resumed.code == 0, resumed.err
    assert weights(Path("run")) == weights(whole)
    for file in sorted((whole / "bank").glob("*.safetensors")):
        assert digest(Path("run/bank") / file.name) == digest(file), file.name
    assert record(Path("run"))["rounds"] == record(whole)["rounds"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize(("time", "there"), [(16, [18]), (19, [14, 18, 19, 20])])
def test_killed_while_students_choose_and_gone_on_with(
    cake: Cake, place: Path, own_folder: Path, time: int, there: list[int]
):
    """At the second of three chosen sets, and at the second of four that are not; seven a round went before."""
    choosing = ["distill", place / "teacher.onnx", *ROUNDS, "--set", "training.chosen=0.5", "--set", "waypoints=0"]
    assert cake(*choosing, "-o", "whole").code == 0
    assert killed(own_folder, [*choosing, "-o", "run"], "shelf.json", time) == -9
    shelves = [int(file.parent.name) for file in Path("run/checkpoints/beside/3").glob("*/shelf.json")]
    assert sorted(shelves) == there
    assert cake("resume", "run").code == 0
    assert weights(Path("run")) == weights(Path("whole"))
    assert record(Path("run"))["rounds"] == record(Path("whole"))["rounds"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_it_can_go_on_with_another_disagreement(cake: Cake, place: Path, own_folder: Path):
    assert killed(own_folder, ["distill", place / "teacher.onnx", *ROUNDS, "-o", "run"], "shard-00002", 1) == -9
    assert cake("resume", "run", "--disagreement", "1").code == 0
    shards = json.loads(Path("run/bank/manifest.json").read_text())["shards"]
    assert [shard.get("disagreement") for shard in shards] == [None, 40.0, 20.0]
    assert "disagreement = 1.0" in Path("run/config.toml").read_text()
    assert record(Path("run"))["config"]["synthesis"]["disagreement"] == 1.0, "run.json repeats the run, too"
    before = Path("run/config.toml").read_bytes()
    said = refusal(cake("resume", "run", "--disagreement", "3"), 2)
    assert "run is complete: no sample is left to be made with another --disagreement" in said
    assert Path("run/config.toml").read_bytes() == before


def test_a_bank_of_rounds_is_a_bank(cake: Cake, whole: Path):
    trained = cake("train", whole, "--student", "linear", *TRAINING, "--replay", "40", "--no-report", "-o", "other")
    assert trained.code == 0, trained.err
    assert record(Path("other"))["synthesis"]["samples"] == 90
    said = refusal(cake("train", whole, "--student", "linear", "--replay", "29"), 2)
    assert "--replay 29 is less than one round, which has 30 samples" in said


def test_a_dry_run_counts_what_rounds_take(cake: Cake, place: Path):
    planned = json.loads(cake("distill", place / "teacher.onnx", *ROUNDS, "--dry-run", "--json").out)
    assert planned["rounds"] == 3
    assert planned["teacher_passes"] == {"forward": 270, "backward": 180}
    assert planned["student_passes"] == {"forward": 120, "backward": 120}


@pytest.mark.parametrize(
    ("flags", "rounds"),
    [
        (["--samples", "1200"], 8),
        (["--samples", "330"], 2),
        (["--samples", "90"], 1),
        (["--samples", "1200", "--rounds", "1"], 1),
        (["--samples", "1200", "--method", "naive"], 1),
    ],
)
def test_without_the_flag_rounds_are_as_many_as_sets_allow(cake: Cake, place: Path, flags: list[str], rounds: int):
    own = ["--student", "linear", "--set", "synthesis.set_size=30", "--dry-run", "--json"]
    planned = json.loads(cake("distill", place / "teacher.onnx", *own, *flags).out)
    assert planned["rounds"] == rounds
    made = ["--set", "synthesis.set_size=30", "--dry-run", "--json"]
    assert json.loads(cake("synthesize", place / "teacher.onnx", *made, *flags[:2]).out)["rounds"] == 1
