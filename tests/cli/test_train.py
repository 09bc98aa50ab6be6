"""`cake train`: a student from a bank that exists, with or without the teacher's file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import TINY, TRAINING, record, refusal, snapshot, weights
from tests.conftest import Outcome

Cake = Callable[..., Outcome]
STUDENT = [*TRAINING, "--student", "mlp:8", "--no-report"]


def test_the_teachers_file_is_not_needed(cake: Cake, mlp_file: Path, bank: Path):
    mlp_file.unlink()
    outcome = cake("train", bank, *STUDENT, "-o", "run", "--json")
    found = json.loads(outcome.out)
    assert (found["samples"], found["student"], found["evaluation"]) == (60, "run/student.safetensors", None)
    assert record(Path("run"))["command"] == "train"
    assert "training" in found["seconds"]
    assert "synthesis" not in found["seconds"]


def test_it_is_the_student_of_distill_in_one_go(cake: Cake, mlp_file: Path, bank: Path):
    assert cake("distill", mlp_file, *TINY, "--rounds", "1", "-o", "distilled").code == 0
    assert cake("train", bank, *STUDENT, "-o", "trained").code == 0
    assert weights(Path("trained")) == weights(Path("distilled"))


def test_a_run_stands_for_its_bank(cake: Cake, distilled: Path):
    before = snapshot(distilled)
    found = json.loads(cake("train", distilled, *TRAINING, "--student", "linear", "--no-report", "--json").out)
    assert found["samples"] == 60
    assert Path(found["run"]) == Path("runs/bank-to-linear-001")
    assert snapshot(distilled) == before


def test_without_teacher_accuracy_is_measured_and_agreement_is_not(cake: Cake, bank: Path, heldout: Path):
    found = json.loads(cake("train", bank, *STUDENT, "--data", heldout, "--json").out)["evaluation"]
    assert found["accuracy"]["student"] is not None
    assert found["accuracy"]["teacher"] is None
    assert found["agreement"] is None
    told = cake("train", bank, *STUDENT, "--data", heldout, "-o", "again").err
    assert "no agreement and no noise baseline beside it (--teacher)" in told


def test_with_teacher_agreement_is_measured(cake: Cake, mlp_file: Path, bank: Path, heldout: Path):
    arguments = ["train", bank, *STUDENT, "--data", heldout, "--teacher", mlp_file, "--json"]
    found = json.loads(cake(*arguments).out)["evaluation"]
    assert found["agreement"] is not None
    assert found["accuracy"]["noise_baseline"] is not None


def test_waypoints_of_a_bank_that_was_made_before_are_refused_before_anything_is_written(cake: Cake, bank: Path):
    outcome = cake("train", bank, *STUDENT, "--set", "training.waypoints=2", "-o", "run")
    assert outcome.code == 2
    assert "waypoints are kept only while samples are made" in outcome.err
    assert not Path("run").exists()


def test_the_steps_that_are_told_are_those_of_the_bank(cake: Cake, mlp_file: Path, bank: Path):
    assert cake("distill", mlp_file, *STUDENT, "--bank", bank, "--steps", "5", "-o", "run").code == 0
    assert record(Path("run"))["plan"]["steps"] == 2


def test_a_gate_that_cannot_be_measured_is_said(cake: Cake, bank: Path, heldout: Path):
    said = refusal(cake("train", bank, *STUDENT, "--data", heldout, "--min-agreement", "0.5", "-o", "run"), 2)
    assert "the teacher's file is needed to measure agreement" in said
    assert "--teacher FILE" in said
    assert not Path("run").exists(), "before anything is trained"


def test_a_gate_that_is_asked_for_later_is_measured_then(cake: Cake, mlp_file: Path, bank: Path, heldout: Path):
    assert cake("train", bank, *STUDENT, "--data", heldout, "-o", "run").code == 0
    assert record(Path("run"))["evaluation"]["agreement"] is None
    config = Path("run/config.toml")
    text = config.read_text(encoding="utf-8")
    text = text.replace("# min_agreement =", "min_agreement = 1.0").replace("# file =", f'file = "{mlp_file}"', 1)
    config.write_text(text, encoding="utf-8")
    assert cake("resume", "run").code == 7
    assert record(Path("run"))["evaluation"]["agreement"] < 1


@pytest.mark.parametrize("bounds", [["min_step_size=1e9"], ["max_step_size=1e-30"]])
def test_a_filter_that_leaves_nothing_is_said(cake: Cake, bank: Path, bounds: list[str]):
    outcome = cake("train", bank, *STUDENT, "-o", "run", *(part for bound in bounds for part in ("--set", bound)))
    assert outcome.code == 4
    assert "no samples are left" in outcome.err


def test_a_filter_trains_on_less(cake: Cake, bank: Path, made: Path):
    assert cake("train", bank, *STUDENT, "-o", "some", "--set", "min_step_size=0.2").code == 0
    assert weights(made / "run") != weights(Path("some"))


def test_a_bank_that_is_not_there(cake: Cake, tmp_path: Path):
    outcome = cake("train", "nowhere", *STUDENT)
    assert outcome.code == 4
    assert "not a sample bank" in outcome.err
    assert not Path("runs").exists()


def test_a_bank_that_is_not_finished(cake: Cake, bank: Path):
    manifest = json.loads((bank / "manifest.json").read_text())
    manifest["status"] = "partial"
    manifest["shards"].pop()
    (bank / "manifest.json").write_text(json.dumps(manifest))
    outcome = cake("train", bank, *STUDENT)
    assert outcome.code == 4
    assert "not finished" in outcome.err
    assert f"cake resume {bank}" in outcome.err


@pytest.mark.parametrize("command", [("inspect",), ("distill", "--student", "linear"), ("evaluate", "--data", "x.npz")])
def test_a_bank_is_no_model_and_what_it_is_for_is_said(cake: Cake, bank: Path, command: tuple[str, ...]):
    given = [bank] if command[0] != "inspect" else []
    for path in (*given, sorted(bank.glob("*.safetensors"))[0]):
        refused = cake(command[0], path, *command[1:])
        assert refused.code == 3, refused.err
        assert "of a sample bank, not" in refused.err or "is a sample bank, not" in refused.err
        assert f"cake train {bank} --student cnn" in refused.err
