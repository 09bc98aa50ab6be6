"""The same command, seed and device give the same bytes, however it was run; and run.json is enough to run it again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import SYNTHESIS, TINY, save_heldout, snapshot, weights
from tests.conftest import Outcome, save_mlp
from tests.faults import children

Cake = Callable[..., Outcome]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a teacher and data, in which commands run."""
    monkeypatch.chdir(tmp_path)
    save_mlp(tmp_path / "teacher.onnx")
    save_heldout(tmp_path / "heldout.npz")
    return tmp_path


def result(run: Path) -> dict[str, str]:
    """The hashes of student, baseline and bank."""
    return {name: digest for name, digest in snapshot(run).items() if name.endswith(".safetensors") or "/man" in name}


def test_with_and_without_a_bar(cake: Cake, place: Path):
    found = []
    for progress in ("none", "log", "bar"):
        assert cake("distill", "teacher.onnx", *TINY, "-o", progress, "--progress", progress).code == 0
        found.append(result(place / progress))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 4, "a student, two shards and a manifest"


@pytest.mark.filterwarnings("ignore:resource_tracker")
def test_run_json_is_enough(place: Path, tmp_path: Path):
    def cake(*words: str) -> None:
        ended = children.run(tmp_path, words, tmp_path / "said")
        assert ended.code == 0, ended.said

    cake("distill", "teacher.onnx", *TINY, "--seed", "3", "--data", "heldout.npz", "--loss", "kl", "-o", "first")
    wanted = result(place / "first")
    (place / "kept").mkdir()
    shutil.move(place / "first" / "run.json", place / "kept" / "run.json")
    shutil.rmtree(place / "first")
    record = json.loads((place / "kept" / "run.json").read_text())
    assert record["working_directory"] == str(place)
    cake("distill", "--config", "kept/run.json", "-o", "again")
    assert result(place / "again") == wanted, "its settings"
    cake(*record["argv"])
    assert result(place / "first") == wanted, "its command line, where it was given"
    assert len(wanted) == 5


def test_a_student_of_a_bank_from_run_json(cake: Cake, place: Path):
    assert cake("synthesize", "teacher.onnx", *SYNTHESIS, "-o", "bank").code == 0
    assert cake("train", "bank", "--epochs", 1, "--student", "linear", "--no-report", "-o", "first").code == 0
    assert cake("distill", "--config", "first/run.json", "-o", "again").code == 0
    assert weights(place / "again") == weights(place / "first")


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"config": 3}', '{"config": {"synthesis": {"steps": "x"}}}'])
def test_a_run_json_without_settings(cake: Cake, place: Path, content: str):
    Path("run.json").write_text(content)
    outcome = cake("distill", "--config", "run.json")
    assert (outcome.code, "Traceback" in outcome.err) == (2, False)
    assert "run.json" in outcome.err or "synthesis.steps must be a whole number" in outcome.err
