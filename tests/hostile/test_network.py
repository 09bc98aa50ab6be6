"""No network at run time unless ``--download`` is given: every child here is cut off, and tells if it asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.forking import Ended
from tests.hostile.seeds import TINY_BANK, TINY_TRAINING
from tests.hostile.serving import Server

TINY = [*TINY_BANK, "--epochs", "1"]
COMMANDS: dict[str, list[str]] = {
    "inspect": ["inspect", "{}/teacher.onnx"],
    "inspect weights": ["inspect", "{}/weights.safetensors"],
    "distill": ["distill", "{}/teacher.onnx", *TINY, "--student", "mlp:8", "--data", "{}/heldout.npz", "-o", "out"],
    "synthesize": ["synthesize", "{}/traced.pt", *TINY_BANK, "-o", "out"],
    "train": ["train", "{}/bank", "--student", "linear", *TINY_TRAINING, "-o", "out"],
    "evaluate": ["evaluate", "{}/student.safetensors", "--data", "{}/heldout.parquet"],
    "export": ["export", "{}/student.safetensors", "--to", "onnx", "-o", "out.onnx"],
    "doctor": ["doctor"],
    "students": ["students"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_asks_the_network(server: Server, tmp_path: Path, seeds: Path, command: str):
    if command == "evaluate":
        pytest.importorskip("pyarrow")
    ended = server.run([word.format(seeds) for word in COMMANDS[command]], tmp_path)
    assert ended.code == 0, ended.err
    assert ended.network == ""


def test_architectures_of_timm_bring_no_weights(server: Server, tmp_path: Path, seeds: Path):
    pytest.importorskip("timm")
    arguments = ["train", str(seeds / "bank"), "--student", "timm:test_resnet", *TINY_TRAINING, "-o", "out"]
    ended = server.run(arguments, tmp_path)
    assert ended.code in (0, 2), ended.err
    assert ended.network == ""


def test_a_named_set_that_is_not_there_is_not_fetched(run: Callable[..., Ended], tmp_path: Path, seeds: Path):
    command = ["evaluate", seeds / "student.safetensors", "--data", "mnist", "--data-root", tmp_path]
    ended = run(*command)
    assert ended.code == 4
    assert b"--download" in ended.err


def test_with_download_it_is(server: Server, tmp_path: Path, seeds: Path):
    """The other half: this would be seen."""
    root = str(tmp_path / "sets")
    arguments = ["evaluate", str(seeds / "student.safetensors"), "--data", "mnist", "--data-root", root, "--download"]
    ended = server.run(arguments, tmp_path)
    assert ended.code == 4, ended.err
    assert "urllib.Request" in ended.network
