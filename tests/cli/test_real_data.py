"""`--real-data`: Hinton's distillation, and that nobody can take it for data-free."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import SYNTHESIS, TRAINING, record, refusal
from tests.conftest import Outcome

Cake = Callable[..., Outcome]
STUDENT = [*TRAINING, "--student", "mlp:8", "--no-report"]


@pytest.fixture
def real(tmp_path: Path) -> Path:
    draw = np.random.default_rng(1)
    np.savez(tmp_path / "real.npz", x=draw.integers(0, 256, (50, 4, 4), dtype=np.uint8), y=np.arange(50) % 3)
    return tmp_path / "real.npz"


def test_it_is_said_everywhere(cake: Cake, mlp_file: Path, real: Path, heldout: Path):
    hinton = ["--real-data", real, "--lambda", "0.3", "--temperature", "4", "--data", heldout]
    outcome = cake("distill", mlp_file, *STUDENT, *hinton, "-o", "run")
    assert outcome.code == 0
    assert f"{real}, 50 samples, lambda 0.3: this run is NOT data-free" in outcome.err
    assert "none for training" not in outcome.err
    assert "NOT data-free: real data trained the student" in outcome.err
    assert "of noise" not in outcome.err, "without samples there is no noise to compare with"
    assert record(Path("run"))["data_free"] is False
    assert "NOT data-free" in cake("inspect", "run").out


def test_json_says_it_too(cake: Cake, mlp_file: Path, real: Path):
    planned = json.loads(cake("distill", mlp_file, *STUDENT, "--real-data", real, "--dry-run", "--json").out)
    assert (planned["data_free"], planned["real_samples"], planned["samples"]) == (False, 50, 0)
    found = json.loads(cake("distill", mlp_file, *STUDENT, "--real-data", real, "--json").out)
    assert (found["data_free"], found["samples"], found["bank"]) == (False, 0, None)
    assert found["training_passes"] == {"forward": 50, "backward": 0}
    assert found["teacher_passes"] == {"forward": 0, "backward": 0}


def test_a_method_without_samples_is_not_passed_over(cake: Cake, mlp_file: Path, real: Path):
    words = ("distill", mlp_file, *STUDENT, "--real-data", real, "--method", "noise", "--dry-run")
    said = refusal(cake(*words), 2)
    assert said.startswith("error: --method noise makes samples, and beside --real-data none are made\n")
    assert cake(*words, "--samples", "60").code == 0


def test_mixed_with_samples_or_with_a_bank(cake: Cake, mlp_file: Path, real: Path, bank: Path):
    one_go = [*SYNTHESIS, "--rounds", "1"]
    made = json.loads(cake("distill", mlp_file, *one_go, *STUDENT, "--real-data", real, "--json").out)
    used = json.loads(cake("distill", mlp_file, *STUDENT, "--bank", bank, "--real-data", real, "--json").out)
    trained = json.loads(cake("train", bank, *STUDENT, "--teacher", mlp_file, "--real-data", real, "--json").out)
    for found in (made, used, trained):
        assert (found["samples"], found["data_free"], found["training_passes"]["forward"]) == (60, False, 50)
    hashes = {(Path(found["run"]) / "student.safetensors").read_bytes() for found in (made, used, trained)}
    assert len(hashes) == 1, "whichever way the samples came"


@pytest.mark.parametrize("rounds", ["1", "2"])
def test_several_students_have_it_labelled_once(
    cake: Cake, mlp_file: Path, real: Path, monkeypatch: pytest.MonkeyPatch, rounds: str
):
    from cake_cli import real_data

    asked: list[int] = []
    answers = real_data._answers
    monkeypatch.setattr(real_data, "_answers", lambda *given: (asked.append(len(given[2])), answers(*given))[1])
    both = [*STUDENT, "--student", "linear", "--real-data", real, *SYNTHESIS, "--rounds", rounds]
    found = json.loads(cake("distill", mlp_file, *both, "--set", "training.noise_samples=0", "--json").out)
    assert found["training_passes"]["forward"] == sum(asked) == 50


@pytest.mark.parametrize("student", ["linear", "resnet4"])
def test_one_row_is_too_few(cake: Cake, mlp_file: Path, student: str):
    np.savez("one.npz", x=np.zeros((1, 4, 4), dtype=np.uint8), y=np.zeros(1, dtype=np.int64))
    said = refusal(cake("distill", mlp_file, *TRAINING, "--student", student, "--real-data", "one.npz"), 4)
    assert "one.npz has fewer than two samples to learn from" in said


def test_a_stopped_run_goes_on_with_real_data(cake: Cake, mlp_file: Path, real: Path, monkeypatch: pytest.MonkeyPatch):
    from cake_cli import training

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_student", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cake("distill", mlp_file, *STUDENT, "--real-data", real, "-o", "run").code == 130
    assert cake("resume", "run").code == 0
    assert cake("distill", mlp_file, *STUDENT, "--real-data", real, "-o", "whole").code == 0
    assert Path("run/student.safetensors").read_bytes() == Path("whole/student.safetensors").read_bytes()
    assert not Path("run/checkpoints").exists(), "no real data stays behind"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--samples", "0"], 2, "--samples 0 leaves nothing to learn from"),
        (["--real-data", "real.npz", "--lambda", "1.5"], 2, "--lambda lies in [0, 1]"),
        (["--lambda", "0.3"], 2, "--lambda needs real data"),
        (["--real-data", "real.npz", "--views", "flip"], 2, "there are none"),
        (["--real-data", "real.npz", "--data", "real.npz"], 2, "would be measured on real.npz"),
        (["--real-data", "mnist", "--data", "MNIST", "--split", "train"], 2, "would be measured on MNIST"),
        (["--real-data", "real.npz", "--set", "labels=hard"], 2, "hard labels"),
        (["--real-data", "nowhere"], 4, "nowhere is neither a file"),
        (["--set", "real_split=train"], 2, "are of real data"),
        (["--loss", "logits", "--temperature", "4"], 2, "a temperature has no part"),
        (["--views", "mix,rotate"], 2, "mix, shift, flip, noise"),
        (["--views", "mix,mix"], 2, "names a view twice"),
        (["--ema", "1"], 2, "--ema lies in [0, 1)"),
    ],
)
@pytest.mark.usefixtures("real")
def test_what_cannot_be(cake: Cake, mlp_file: Path, arguments: list[str], code: int, said: str):
    assert said in refusal(cake("distill", mlp_file, *STUDENT, *arguments, "-o", "run"), code)
    assert not Path("run").exists()


def test_a_bank_alone_cannot_label_real_data(cake: Cake, bank: Path, real: Path):
    said = refusal(cake("train", bank, *STUDENT, "--real-data", real), 2)
    assert "teacher's file is needed to label real data" in said
    assert "--teacher FILE" in said
