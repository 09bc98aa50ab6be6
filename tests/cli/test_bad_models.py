"""A model file that cannot be a teacher gets its sentence, what to try, and exit code 3; nothing is written."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.cli.conftest import SYNTHESIS, TINY, refusal, snapshot
from tests.conftest import ROOT, Outcome, save_mlp

Cake = Callable[..., Outcome]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
REAL = ROOT.parent / "shared" / "models"


def save_graph(file: Path, nodes: list, inputs: dict, outputs: dict, weights: dict | None = None) -> None:
    """Writes an ONNX graph; inputs and outputs by name as (element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *about) for name, about in inputs.items()],
        [helper.make_tensor_value_info(name, *about) for name, about in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


X = {"x": (FLOAT, ["batch", 1, 4, 4])}
W = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
FLATTEN = helper.make_node("Flatten", ["x"], ["flat"], axis=1)


def linear_to(output: str) -> list:
    return [FLATTEN, helper.make_node("MatMul", ["flat", "w"], [output])]


def empty(file: Path) -> None:
    file.write_bytes(b"")


def truncated(file: Path) -> None:
    whole = save_mlp(file.with_name("whole.onnx")).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


def text(file: Path) -> None:
    file.write_text("Dear colleague,\nthe model is attached.\n")


def noise(file: Path) -> None:
    file.write_bytes(np.random.default_rng(0).bytes(4096))


def web_page(file: Path) -> None:
    file.write_text("<!DOCTYPE html><html><body>404</body></html>")


def lfs_pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 46830571\n")


def argmax(file: Path) -> None:
    nodes = [*linear_to("scores"), helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0)]
    save_graph(file, nodes, X, {"label": (INT64, ["batch"])}, {"w": W})


def int8(file: Path) -> None:
    nodes = [
        FLATTEN,
        helper.make_node("DynamicQuantizeLinear", ["flat"], ["bytes", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["bytes", "w8", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["logits"]),
    ]
    weights = {"w8": (W * 50).clip(-127, 127).astype(np.int8)}
    save_graph(file, nodes, X, {"logits": (FLOAT, ["batch", 3])}, weights)


def two_inputs(file: Path) -> None:
    nodes = [helper.make_node("Add", ["left", "right"], ["x"]), *linear_to("logits")]
    inputs = {"left": X["x"], "right": X["x"]}
    save_graph(file, nodes, inputs, {"logits": (FLOAT, ["batch", 3])}, {"w": W})


def detector(file: Path) -> None:
    """Twenty boxes of six numbers for each image."""
    wide = np.random.default_rng(0).normal(size=(16, 120)).astype(np.float32)
    nodes = [*linear_to("numbers"), helper.make_node("Reshape", ["numbers", "boxes"], ["found"])]
    weights = {"w": wide, "boxes": np.array([-1, 20, 6])}
    save_graph(file, nodes, X, {"found": (FLOAT, ["batch", 20, 6])}, weights)


def constant(file: Path) -> None:
    nodes = [*linear_to("still"), helper.make_node("Add", ["still", "b"], ["logits"])]
    weights = {"w": np.zeros_like(W), "b": np.array([1, 2, 3], np.float32)}
    save_graph(file, nodes, X, {"logits": (FLOAT, ["batch", 3])}, weights)


def not_finite(file: Path) -> None:
    save_graph(file, linear_to("logits"), X, {"logits": (FLOAT, ["batch", 3])}, {"w": np.full_like(W, np.nan)})


def open_sizes(file: Path) -> None:
    pool = helper.make_node("GlobalAveragePool", ["x"], ["mean"])
    nodes = [pool, helper.make_node("Flatten", ["mean"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    inputs = {"x": (FLOAT, ["batch", 3, "height", "width"])}
    save_graph(file, nodes, inputs, {"y": (FLOAT, ["batch", 3])}, {"w": W[:3]})


def pickled(file: Path) -> None:
    file.write_bytes(pickle.dumps({"weights": [1, 2, 3]}))


def torch_checkpoint(file: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), file)


def unrelated_archive(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")


MODELS: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    # file name, how it is made, what the message must hold
    "empty": ("bad.onnx", empty, ["empty (0 bytes)"]),
    "truncated": ("bad.onnx", truncated, ["bad.onnx", "bytes"]),
    "text": ("bad.onnx", text, ["bad.onnx"]),
    "text of another name": ("notes.txt", text, ["not a model file", "39 bytes"]),
    "random bytes": ("bad.onnx", noise, ["bad.onnx"]),
    "web page": ("bad.onnx", web_page, ["bad.onnx"]),
    "Git LFS pointer": ("bad.onnx", lfs_pointer, ["Git LFS pointer of", "bytes", "git lfs pull"]),
    "ArgMax": ("bad.onnx", argmax, ["ArgMax", "gradient"]),
    "int8": ("bad.onnx", int8, ["int8", "MatMulInteger", "no gradient", "float32"]),
    "several inputs": ("bad.onnx", two_inputs, ["left", "right", "1x4x4"]),
    "detector": ("bad.onnx", detector, ["20x6"]),
    "constant": ("bad.onnx", constant, ["gradient", "zero", "24"]),
    "not finite": ("bad.onnx", not_finite, ["bad.onnx", "NaN"]),
    "open sizes": ("bad.onnx", open_sizes, ["--input-shape", "height"]),
    "pickle": ("bad.pt", pickled, ["would run its code", "not loaded"]),
    "pickled module": ("bad.pt", torch_checkpoint, ["not loaded"]),
    "other archive": ("bad.zip", unrelated_archive, ["archive, but not of a model"]),
}


FOLLOWED = ["--method", "cake"]
"""Where nothing is said, a teacher without a gradient is asked for labels instead."""


@pytest.mark.parametrize("kind", MODELS)
def test_a_file_that_cannot_be_a_teacher(cake: Cake, tmp_path: Path, kind: str):
    name, make, words = MODELS[kind]
    make(tmp_path / name)
    before = snapshot(tmp_path)
    said = refusal(cake("distill", name, *TINY, *FOLLOWED, "-o", "out"), 3)
    for word in words:
        assert word in said
    assert snapshot(tmp_path) == before
    assert not Path("out").exists()
    if kind == "int8":  # it can be asked, if not followed
        shown = cake("inspect", name)
        assert (shown.code, "none: the graph is quantised to int8" in shown.out) == (0, True)
    else:
        assert refusal(cake("inspect", name), 3) == said
    assert refusal(cake("synthesize", name, *SYNTHESIS, *FOLLOWED), 3) == said


def test_a_pickle_is_never_run(cake: Cake, tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Trap()))
    torch.save(Trap(), tmp_path / "bad.onnx")
    for name in ("bad.pt", "bad.onnx"):
        refusal(cake("distill", name, *TINY), 3)
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_suggests_the_nearest(cake: Cake, mlp_file: Path):
    said = refusal(cake("distill", "techer.onnx", *TINY), 3)
    assert "there is no file techer.onnx" in said
    assert f"did you mean {mlp_file.name}?" in said


def test_a_missing_file_in_a_missing_folder(cake: Cake):
    assert "there is no file no/such.onnx" in refusal(cake("distill", "no/such.onnx", *TINY), 3)


def test_a_folder_is_not_a_teacher(cake: Cake, tmp_path: Path):
    assert "is a folder" in refusal(cake("distill", tmp_path, *TINY), 3)


def test_no_teacher_at_all(cake: Cake):
    said = refusal(cake("distill", *TINY), 2)
    assert "which teacher?" in said
    assert "cake distill TEACHER.onnx --student" in said
    assert "cake synthesize TEACHER.onnx -o bank" in refusal(cake("synthesize"), 2)


def test_a_shape_that_does_not_fit_the_file(cake: Cake, mlp_file: Path):
    said = refusal(cake("distill", mlp_file, *TINY, "--input-shape", "3,8,8"), 2)
    assert "--input-shape 3,8,8" in said
    assert "1x4x4" in said


def test_an_output_that_is_not_there(cake: Cake, mlp_file: Path):
    outcome = cake("distill", mlp_file, *TINY, "--output", "logit")
    assert "logits" in refusal(outcome, outcome.code)
    assert outcome.code in (2, 3)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_student_cut_short(cake: Cake, distilled: Path, heldout: Path, keep: int):
    file = distilled / "student.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    before = snapshot(Path())
    for command in (["inspect", file], ["evaluate", distilled, "--data", heldout], ["distill", file, *TINY]):
        assert "student.safetensors" in refusal(cake(*command), 3)
    assert snapshot(Path()) == before


# Real files: what the README beside them says must be refused where it is to be followed, and what opens.

REFUSED = {
    "skl_rf_iris.onnx": "tree ensemble",
    "edgeopt_mobilenetv2_int8.onnx": "int8",
    "kakao_mobilenetv2_cifar10.onnx": "mobilenetv2_cifar10.onnx.data",
    "akinobu_mnist_tf2onnx.onnx": "training graph",
    "vit4mnist.ptl": "",
}


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
@pytest.mark.parametrize("name", REFUSED)
def test_a_real_file_that_must_be_refused(cake: Cake, name: str):
    assert REFUSED[name] in refusal(cake("distill", REAL / name, *TINY, *FOLLOWED), 3)
    assert not Path("runs").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
@pytest.mark.parametrize("name", ["skl_rf_iris.onnx", "edgeopt_mobilenetv2_int8.onnx"])
def test_a_real_file_without_a_gradient_is_asked_for_labels(cake: Cake, name: str):
    outcome = cake("distill", REAL / name, *TINY, "-o", "run", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["teacher_passes"] == {"forward": 60, "backward": 0}


SLOW = {"antispoof_bin_128.onnx"}
OTHERS = sorted({file.name for kind in ("onnx", "pt", "ptl") for file in REAL.glob(f"*.{kind}")} - set(REFUSED))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in OTHERS]
)
def test_a_real_file_is_opened_or_refused_in_a_sentence(cake: Cake, name: str):
    outcome = cake("inspect", REAL / name, "--no-verify", "--json")
    if outcome.code == 0:
        assert json.loads(outcome.out)["kind"] == "teacher"
    else:
        refusal(outcome, 3)
        assert not name.endswith(".onnx"), "every ONNX file here but the five above can teach"
