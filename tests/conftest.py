"""What several tests share: small teachers, made in memory, and the command line run in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from cake_cli.cli.app import run
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.spec import InputSpec

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "examples" / "digits"


def pytest_configure(config: pytest.Config) -> None:
    """Workers side by side (``-n 2``) share the cores: two that each took all of them would wait for each other."""
    workers = getattr(config, "workerinput", {}).get("workercount")
    if workers is not None:
        threads = max(1, (os.cpu_count() or 1) // workers)
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of the commands that tests start


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker that has nothing left takes tests of the other's: some take a minute, and most are in one folder."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


class Outcome(NamedTuple):
    """How a command line ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def cake(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs ``cake ARGUMENTS`` in this process."""

    def invoke(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return invoke


@pytest.fixture
def cpu() -> Hardware:
    return Hardware(torch.device("cpu"), "fp32")


def save_mlp(path: Path, *, shape: tuple[int, ...] = (1, 4, 4), classes: int = 3, seed: int = 0) -> Path:
    """A random two-layer perceptron with a symbolic batch, as ONNX of opset 17; smooth, so it has gradients."""
    draw = np.random.default_rng(seed)
    values = int(np.prod(shape))
    weights = {
        "w1": draw.normal(size=(values, 16)) / values**0.5,
        "b1": np.zeros(16),
        "w2": draw.normal(size=(16, classes)),
        "b2": np.zeros(classes),
    }
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w1", "b1"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def mlp_file(tmp_path: Path) -> Path:
    return save_mlp(tmp_path / "teacher.onnx")


@pytest.fixture
def toy_teacher() -> Classifier:
    """A small random convolutional teacher in memory: (1, 4, 4) to 4 classes."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(128, 4)
    )
    return Classifier(
        module=module.eval().requires_grad_(False),
        spec=InputSpec((1, 4, 4)),
        classes=4,
        name="toy.onnx",
        sha256="0" * 64,
    )
