"""Numbers that go wrong, with teachers made on the fly: each command works, or says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from tests.hostile.conftest import Meet
from tests.hostile.forking import Ended

SYNTHESIS = ["--samples", "60", "--steps", "2", "--set", "set_size=30"]
TINY = [*SYNTHESIS, "--epochs", "1", "--student", "mlp:8", "--no-report"]


def teacher(
    file: Path,
    *,
    shape: tuple[int, ...] = (1, 4, 4),
    classes: int = 3,
    gain: float = 1.0,
    bias: np.ndarray | float = 0.0,
    columns: list[int] | None = None,
    half: bool = False,
) -> Path:
    """A linear classifier of tanh: gain * (tanh(x) W) + bias; `columns` repeats classes."""
    draw = np.random.default_rng(0)
    kind = np.float16 if half else np.float32
    most = float(np.finfo(kind).max)
    matrix = np.clip(draw.normal(size=(int(np.prod(shape)), classes)) * gain, -most, most)
    matrix = matrix if columns is None else matrix[:, columns]
    weights = {"w": matrix.astype(kind), "b": (np.zeros(matrix.shape[1]) + bias).astype(kind)}
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("Tanh", ["flat"], ["bent"]),
        helper.make_node("Gemm", ["bent", "w", "b"], ["logits"]),
    ]
    element = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "numbers",
        [helper.make_tensor_value_info("x", element, ["n", *shape])],
        [helper.make_tensor_value_info("logits", element, ["n", matrix.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


Run = Callable[..., Ended]
FIRST = np.array([40.0, 0, 0])


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"gain": float("nan")}, "NaN"),
        ({"gain": float("inf")}, ""),
        ({"gain": 0.0}, "gradient"),
        ({"gain": 0.0, "bias": FIRST}, "gradient"),
        ({"bias": float("inf")}, ""),
    ],
    ids=["nan", "infinite", "constant", "one class always", "infinite bias"],
)
def test_a_teacher_of_no_use_is_refused(refused: Meet, tmp_path: Path, made: dict, words: str):
    assert words in refused(3, "distill", teacher(tmp_path / "t.onnx", **made), *TINY, "-o", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("gain", [1e30, 3e38])
def test_huge_logits_work_or_say_why(run: Run, tmp_path: Path, gain: float):
    """The softmax saturates, gradients of the cross-entropy are 0 or huge; the greater gain overflows."""
    ended = run("distill", teacher(tmp_path / "t.onnx", gain=gain), *TINY, "-o", tmp_path / "run")
    assert ended.code in (0, 3, 6)
    if ended.code == 0:
        for file in ("run.json", "bank/manifest.json"):
            assert "NaN" not in (tmp_path / "run" / file).read_text()


def test_large_logits_work(run: Run, tmp_path: Path):
    assert run("distill", teacher(tmp_path / "t.onnx", gain=1e3), *TINY, "-o", tmp_path / "run").code in (0, 6)


def test_one_class_dominating_is_called_degenerate(refused: Meet, tmp_path: Path):
    said = refused(6, "distill", teacher(tmp_path / "t.onnx", bias=FIRST), *TINY, "-o", tmp_path / "run")
    assert "in one of its 3 classes" in said


@pytest.mark.parametrize(
    "made",
    [
        {"columns": [0, 0, 1]},
        {"classes": 2},
        {"shape": (1, 1, 1)},
        {"shape": (3, 1, 1)},
        {"shape": (5, 4, 4)},
        {"shape": (1, 1, 7)},
        {"shape": (2,)},
        {"half": True},
        {"half": True, "gain": 100.0},
    ],
    ids=lambda made: "-".join(f"{name}={value}" for name, value in made.items()),
)
def test_small_and_odd_teachers_work(run: Run, tmp_path: Path, made: dict):
    ended = run("distill", teacher(tmp_path / "t.onnx", **made), *TINY, "--json", "-o", tmp_path / "run")
    assert ended.code in (0, 6), ended.err
    if ended.code == 6:
        assert b"degenerate" in ended.err
    else:
        assert np.isfinite(json.loads(ended.out)["synthetic_fidelity"])


def test_the_smallest_images_take_convolutions(run: Run, tmp_path: Path):
    for name, shape in (("a", (1, 1, 1)), ("b", (5, 4, 4))):
        made = teacher(tmp_path / f"{name}.onnx", shape=shape)
        small = [*SYNTHESIS, "--epochs", "1", "--student", "cnn", "-o", tmp_path / name]
        assert run("distill", made, *small).code in (0, 2, 6)  # 2: a 1x1 image can be read as a vector


def test_a_thousand_classes(run: Run, tmp_path: Path):
    made = teacher(tmp_path / "t.onnx", classes=1000)
    samples = ["--samples", "2000", "--steps", "2", "--epochs", "1", "--student", "linear"]
    assert run("distill", made, *samples, "-o", tmp_path / "run").code == 0


@pytest.mark.parametrize("groups", [2, 9, 10])
def test_groups_close_to_the_number_of_classes(run: Run, tmp_path: Path, groups: int):
    made = teacher(tmp_path / "t.onnx", classes=10)
    given = ["--samples", "180", "--steps", "2", "--set", "set_size=90", "--set", f"groups={groups}"]
    assert run("synthesize", made, *given, "-o", tmp_path / "bank").code in (0, 6)


@pytest.mark.parametrize("groups", [1, 11, -3])
def test_groups_that_no_row_can_have(refused: Meet, tmp_path: Path, groups: int):
    made = teacher(tmp_path / "t.onnx", classes=10)
    given = ["--samples", "180", "--steps", "2", "--set", f"groups={groups}"]
    refused(2, "synthesize", made, *given, "-o", tmp_path / "bank")


@pytest.mark.parametrize("size", [1, 10**9])
def test_batches_of_one_and_of_all(run: Run, tmp_path: Path, size: int):
    made = teacher(tmp_path / "t.onnx")
    for student in ("mlp:4", "cnn"):
        given = [*SYNTHESIS, "--epochs", "1", "--student", student, "--batch-size", size]
        ended = run("distill", made, *given, "-o", tmp_path / student.partition(":")[0])
        assert ended.code in (0, 2, 6), ended.err


def test_bf16_says_or_works(run: Run, tmp_path: Path):
    made = teacher(tmp_path / "t.onnx", gain=1e3)
    assert run("distill", made, *TINY, "--precision", "bf16", "-o", tmp_path / "run").code in (0, 5, 6)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e400"])
@pytest.mark.parametrize("key", ["training.lr", "synthesis.step_size", "training.temperature"])
def test_settings_that_are_no_numbers(refused: Meet, tmp_path: Path, seeds: Path, key: str, value: str):
    refused(2, "distill", seeds / "teacher.onnx", *TINY, "--set", f"{key}={value}", "-o", tmp_path / "run")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_data_that_are_no_numbers(run: Run, tmp_path: Path, seeds: Path, value: float):
    rows = np.zeros((12, 4, 4), np.float32)
    rows[3] = value
    np.savez(tmp_path / "d.npz", x=rows, y=np.arange(12) % 3)
    ended = run("evaluate", seeds / "student.safetensors", "--data", tmp_path / "d.npz")
    if np.isfinite(value):  # what the student's weights make of it may be too large
        overflows = b"for 1 of 12 held-out rows, whose normalised values reach 1e+38" in ended.err
        assert ended.code == 0 or (ended.code == 6 and overflows)
    else:
        assert ended.code == 4


@pytest.mark.parametrize(
    "flags",
    [["--mean", "nan"], ["--std", "0"], ["--std", "1e-320"], ["--input-range", "1,0"], ["--input-range", "0,inf"]],
)
def test_a_normalisation_of_no_numbers(refused: Meet, seeds: Path, flags: list[str]):
    more = {"--mean": ["--std", "1"], "--std": ["--mean", "0"]}.get(flags[0], [])
    refused(2, "inspect", seeds / "teacher.onnx", *flags, *more)
