"""`cake train`: a student from a bank that exists, with or without the teacher's file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from cake_cli.spec import InputSpec
from tests.cli.conftest import SYNTHESIS, TINY, TRAINING, record, refusal, snapshot, weights
from tests.conftest import Outcome, save_mlp

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
    outcome = cake("distill", mlp_file, *STUDENT, "--bank", bank, "--steps", "5", "-o", "run")
    assert outcome.code == 0
    assert record(Path("run"))["plan"]["steps"] == 2
    assert "the bank is there already, and synthesis.steps has no part in it" in outcome.err


def test_of_a_bank_settings_of_starting_points_have_a_part(cake: Cake, mlp_file: Path, bank: Path):
    flags = ["--set", "synthesis.init=smooth", "--set", "synthesis.bounds=none"]
    assert "no part" not in cake("distill", mlp_file, *STUDENT, "--bank", bank, *flags, "-o", "run").err
    flags = ["--set", "noise=langevin", "--set", "tv_weight=3", "--set", "tv=isotropic"]
    told = cake("train", bank, *STUDENT, *flags, "-o", "again").err
    assert "synthesis.tv_weight, synthesis.tv and synthesis.noise have no part in it" in told
    assert "no part" not in cake("train", bank, *STUDENT, *SYNTHESIS, "-o", "same").err, "they made it"
    noise = ["--method", "noise", "--set", "training.noise_samples=30"]
    assert "no part" not in cake("distill", mlp_file, *STUDENT, "--bank", bank, *noise, "-o", "noise").err


def test_the_bank_of_another_teacher_whose_settings_do_not_fit_this_one(cake: Cake, mlp_file: Path):
    colour = save_mlp(Path("colour.onnx"), shape=(3, 4, 4))
    flags = ["--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.2"]
    assert cake("synthesize", colour, *SYNTHESIS, *flags, "-o", "other").code == 0
    said = refusal(cake("distill", mlp_file, *STUDENT, "--bank", "other", "-o", "run"), 4)
    assert "was made from colour.onnx, not from this teacher.onnx" in said


def test_a_file_that_would_be_given_raw_values_where_its_bank_holds_normalised_ones(cake: Cake, mlp_file: Path):
    spec = InputSpec((1, 4, 4), (0.5,), (0.25,), (0.0, 1.0), expects="raw")
    proto = onnx.load(mlp_file)
    onnx.helper.set_model_props(proto, {"cake.input": json.dumps(spec.to_json())})
    onnx.save(proto, mlp_file)
    assert cake("synthesize", mlp_file, *SYNTHESIS, "-o", "raw").code == 0
    flags = ["--bank", "raw", "--mean", "0.5", "--std", "0.25"]
    said = refusal(cake("distill", mlp_file, *STUDENT, *flags, "-o", "run"), 2)
    assert "from 0 to 1, raw for the file, and teacher.onnx would be given" in said
    assert cake("distill", mlp_file, *STUDENT, "--bank", "raw", "-o", "run").code == 0


@pytest.mark.parametrize("flags", [("--mean", "0.5", "--std", "0.5"), ("--input-range", "0,255")])
def test_a_teacher_that_would_be_given_other_inputs_than_its_bank_holds(
    cake: Cake, mlp_file: Path, bank: Path, flags: tuple[str, ...]
):
    said = refusal(cake("distill", mlp_file, *STUDENT, "--bank", bank, *flags, "-o", "run"), 2)
    assert "the bank bank holds inputs of 1x4x4, mean 0, std 1, from 0 to 1, and teacher.onnx would be given" in said
    assert not Path("run").exists()


@pytest.mark.parametrize("flags", [("--mean", "0.5", "--std", "0.25"), ("--input-range", "0,255")])
def test_a_teacher_is_given_the_inputs_that_its_bank_was_made_with(
    cake: Cake, mlp_file: Path, heldout: Path, flags: tuple[str, ...]
):
    assert cake("synthesize", mlp_file, *SYNTHESIS, *flags, "-o", "other").code == 0
    results = []
    for name, given in (("said", flags), ("silent", ())):
        command = ["distill", mlp_file, *STUDENT, "--bank", "other", *given, "--data", heldout, "-o", name, "--json"]
        results.append(json.loads(cake(*command).out)["evaluation"]["accuracy"])
    assert results[0] == results[1]
    assert results[0]["noise_baseline"] is not None


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


@pytest.mark.parametrize(
    "bounds", [["min_step_size=0.2", "max_step_size=0.1"], ["max_step_size=-1"], ["min_step_size=-1"]]
)
def test_a_filter_that_nothing_could_pass_is_refused_before_anything_is_made(cake: Cake, bank: Path, bounds: list[str]):
    flags = [part for bound in bounds for part in ("--set", f"training.{bound}")]
    assert "_step_size" in refusal(cake("train", bank, *STUDENT, "-o", "run", *flags), 2)
    assert not Path("run").exists()


@pytest.mark.parametrize("setting", ["temperature", "round_epochs"])
def test_numbers_too_large_to_compute_with(cake: Cake, mlp_file: Path, setting: str):
    command = ["distill", mlp_file, *TINY, "--rounds", "2", "-o", "run"]
    assert "at most 1,000,000" in refusal(cake(*command, "--set", f"training.{setting}=1e308"), 2)
    assert cake(*command, "--set", f"training.{setting}=1e6", "--dry-run").code == 0


def test_what_a_run_reads_is_not_moved_aside_by_it(cake: Cake, mlp_file: Path, distilled: Path, heldout: Path):
    before = snapshot(distilled)
    Path("run/teacher.onnx").write_bytes(mlp_file.read_bytes())
    Path("run/data.npz").write_bytes(heldout.read_bytes())
    begin = ["distill", mlp_file, *STUDENT, "-o", distilled, "--force"]
    commands = {
        "run/bank": [*begin, "--bank", "run/bank"],
        "run/student.safetensors": [*begin, *SYNTHESIS, "--init", "run/student.safetensors"],
        "run/data.npz": [*begin, *SYNTHESIS, "--data", "run/data.npz"],
        "run/teacher.onnx": ["synthesize", "run/teacher.onnx", *SYNTHESIS, "-o", distilled, "--force"],
    }
    for needed, command in commands.items():
        said = refusal(cake(*command), 2)
        assert f"{needed} lies in run, which --force would move aside" in said
    assert snapshot(distilled).items() >= before.items()
    Path("run/link.npz").symlink_to(heldout.resolve())
    assert "link.npz lies in run" in refusal(cake(*begin, *SYNTHESIS, "--data", "run/link.npz"), 2)
    Path("link").symlink_to("run")
    again = ["distill", "run/teacher.onnx", *STUDENT, *SYNTHESIS, "-o", "link", "--force", "--dry-run"]
    assert cake(*again).code == 0, "the link alone would be moved"
    Path("empty").mkdir()
    empty = ["distill", mlp_file, *STUDENT, *SYNTHESIS, "--data", heldout, "--data-root", "empty", "-o", "empty"]
    assert cake(*empty, "--dry-run").code == 0, "nothing would be moved"
    own = shutil.copytree(distilled / "bank", "bank")
    said = refusal(cake("train", own, *STUDENT, "-o", "bank", "--force"), 2)
    assert "bank is needed, which --force would move aside" in said


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
