"""`cake evaluate`: accuracy and fidelity on held-out data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cake_cli.models.loading import load_classifier
from tests.conftest import DIGITS, Outcome, save_mlp

Cake = Callable[..., Outcome]


def test_json_has_the_promised_keys(cake: Cake, mlp_file: Path, heldout: Path, distilled: Path):
    found = json.loads(cake("evaluate", distilled, "--data", heldout, "--against", mlp_file, "--json").out)
    assert {"accuracy", "top5", "agreement", "kl", "ece", "per_class", "samples"} <= set(found)
    assert found["samples"] == 40
    assert len(found["per_class"]) == 3


def test_accuracy_is_the_share_of_right_answers(cake: Cake, mlp_file: Path, heldout: Path):
    arrays = np.load(heldout)
    pixels = torch.from_numpy(arrays["x"]).float()[:, None] / 255
    right = (load_classifier(mlp_file)(pixels).argmax(dim=1).numpy() == arrays["y"]).mean()
    found = json.loads(cake("evaluate", mlp_file, "--data", heldout, "--json").out)
    assert found["accuracy"] == pytest.approx(float(right))
    assert found["agreement"] is None


def test_the_shipped_teacher_reads_its_digits(cake: Cake):
    found = json.loads(cake("evaluate", DIGITS / "teacher.onnx", "--data", DIGITS / "heldout.npz", "--json").out)
    assert found["samples"] == 500
    assert found["accuracy"] >= 0.98


def test_a_model_agrees_with_itself(cake: Cake, mlp_file: Path, heldout: Path):
    found = json.loads(cake("evaluate", mlp_file, "--data", heldout, "--against", mlp_file, "--json").out)
    assert found["agreement"] == 1.0
    assert found["kl"] == pytest.approx(0.0, abs=1e-6)


def test_a_teacher_of_another_normalisation_is_shown_the_same_images(cake: Cake, mlp_file: Path, heldout: Path):
    """The student takes z = (raw - 0.25) / 0.5, so the teacher, which takes raw values, must be given them back."""
    flags = ["--set", "training.batch_size=16", "--samples", "60", "--steps", "2", "--epochs", "1", "--no-report"]
    normalised = ["--mean", "0.25", "--std", "0.5", "-o", "run", "-q"]
    assert cake("distill", mlp_file, "--student", "mlp:8", *flags, *normalised).code == 0
    found = json.loads(cake("evaluate", "run", "--data", heldout, "--against", mlp_file, "--json").out)
    arrays = np.load(heldout)
    raw = torch.from_numpy(arrays["x"]).float()[:, None] / 255
    student, teacher = load_classifier(Path("run")), load_classifier(mlp_file)
    agreed = student((raw - 0.25) / 0.5).argmax(dim=1) == teacher(raw).argmax(dim=1)
    assert found["agreement"] == pytest.approx(float(agreed.float().mean()))


def test_the_table_is_the_result(cake: Cake, mlp_file: Path, heldout: Path, distilled: Path):
    outcome = cake("evaluate", distilled, "--data", heldout, "--against", mlp_file)
    assert outcome.code == 0
    header, teacher, student = outcome.out.splitlines()
    assert header.split()[:2] == ["model", "accuracy"]
    assert "agreement" in header
    assert teacher.startswith(f"{mlp_file} "), "figures and paths are whole in a pipe, however long the path"
    assert student.startswith("run ")
    assert "40 samples" in outcome.err


def test_quiet_is_one_number(cake: Cake, mlp_file: Path, heldout: Path):
    outcome = cake("evaluate", mlp_file, "--data", heldout, "-q")
    assert all(line.startswith("warning: ") for line in outcome.err.splitlines())
    assert 0 <= float(outcome.out) <= 1


def test_small_batches_change_nothing(cake: Cake, mlp_file: Path, heldout: Path):
    whole, small = (
        json.loads(cake("evaluate", mlp_file, "--data", heldout, "--batch-size", size, "--json").out)
        for size in (256, 7)
    )
    assert whole["accuracy"] == small["accuracy"]
    assert whole["ece"] == pytest.approx(small["ece"], abs=1e-5)


def test_the_gate(cake: Cake, mlp_file: Path, heldout: Path, tmp_path: Path):
    other = save_mlp(tmp_path / "other.onnx", seed=1)
    gate = ["--data", heldout, "--min-agreement", "1"]
    assert cake("evaluate", mlp_file, *gate, "--against", mlp_file).code == 0
    missed = cake("evaluate", mlp_file, *gate, "--against", other, "--json")
    assert missed.code == 7
    assert json.loads(missed.out)["agreement"] < 1
    without = cake("evaluate", mlp_file, *gate)
    assert without.code == 2
    assert "--against" in without.err


def test_data_must_be_named(cake: Cake, mlp_file: Path):
    outcome = cake("evaluate", mlp_file)
    assert outcome.code == 2
    assert "--data" in outcome.err


@pytest.mark.parametrize("change", [{"classes": 4}, {"shape": (1, 5, 5)}])
def test_models_of_different_shape_are_not_compared(
    cake: Cake, mlp_file: Path, heldout: Path, tmp_path: Path, change: dict
):
    other = save_mlp(tmp_path / "other.onnx", **change)
    outcome = cake("evaluate", mlp_file, "--data", heldout, "--against", other)
    assert outcome.code == 3
    assert "compare models of the same input and classes" in outcome.err
