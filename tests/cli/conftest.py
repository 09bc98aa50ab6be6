"""Small runs in a folder of their own."""

from __future__ import annotations

import hashlib
import json
import multiprocessing.util
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from cake_cli.cli import app
from tests.conftest import Outcome, save_mlp

SYNTHESIS = ["--samples", "60", "--steps", "2", "--set", "set_size=30", "--set", "sets_at_once=1"]
"""Two shards of thirty samples."""
FAR = ["--set", "bounds=none", "--set", "step_size=3", "--set", "max_update=0"]
"""For teachers that have learned next to nothing: near the inputs of pictures all is one class to them."""
TRAINING = ["--epochs", "2", "--set", "training.batch_size=16"]
TINY = [*SYNTHESIS, *TRAINING, "--student", "mlp:8", "--no-report"]
"""A distillation of a fifth of a second."""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in an empty folder, where bugs leave their logs too, on a terminal without wishes."""
    monkeypatch.chdir(tmp_path)
    multiprocessing.util.get_temp_dir()  # this process's, which outlives a test, is not to be in its folder
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def save_heldout(file: Path) -> Path:
    """Forty labelled images that fit the small teacher."""
    draw = np.random.default_rng(0)
    np.savez(file, x=draw.integers(0, 256, (40, 4, 4), dtype=np.uint8), y=np.arange(40) % 3)
    return file


@pytest.fixture
def heldout(tmp_path: Path) -> Path:
    return save_heldout(tmp_path / "heldout.npz")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with undisturbed things of the small teacher: ``run``, ``bank``, and ``measured``, a run with data."""
    folder = tmp_path_factory.mktemp("made")
    teacher = str(save_mlp(folder / "teacher.onnx"))
    assert app.run(["distill", teacher, *TINY, "-o", str(folder / "run"), "-q"]) == 0
    assert app.run(["synthesize", teacher, *SYNTHESIS, "-o", str(folder / "bank"), "-q"]) == 0
    data = str(save_heldout(folder / "heldout.npz"))
    assert app.run(["distill", teacher, *TINY, "-o", str(folder / "measured"), "--data", data, "-q"]) == 0
    return folder


@pytest.fixture
def distilled(made: Path, own_folder: Path) -> Path:
    """A complete run of the small teacher, of which there is another file with the same content."""
    return shutil.copytree(made / "run", own_folder / "run").relative_to(own_folder)


@pytest.fixture
def bank(made: Path, own_folder: Path) -> Path:
    """A bank of the small teacher, in two shards."""
    return shutil.copytree(made / "bank", own_folder / "bank").relative_to(own_folder)


def record(run: Path) -> dict:
    """run.json."""
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def digest(file: Path) -> str:
    """What a file holds, in short."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def weights(run: Path) -> str:
    """The student of a run, in short: its tensors and not the order of its header."""
    found = hashlib.sha256()
    for name, tensor in sorted(load_file(run / "student.safetensors").items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder, and what it holds."""
    return {str(file.relative_to(folder)): digest(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def refusal(outcome: Outcome, code: int) -> str:
    """What a refused command said, once it is known to be said as it should be: the sentence and what to try."""
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    lines = outcome.err.splitlines()
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert any(line.startswith("try:   ") for line in lines)
    return outcome.err[outcome.err.index("error: ") :]
