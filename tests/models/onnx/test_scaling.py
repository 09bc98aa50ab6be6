"""The scale of the input, where a file begins with a standardisation."""

import json

import numpy as np
import pytest
import torch

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError
from cake_cli.models.loading import load_classifier
from cake_cli.models.onnx import open_onnx
from tests.models.onnx.files import draw, model, node, port, save

MEAN = np.array([500.0, -3.0, 0.0, 10.0], dtype=np.float32)
STD = np.array([200.0, 0.5, 1.0, 4.0], dtype=np.float32)
FIRST = {
    "Scaler": [node("Scaler", "x", "s", "ai.onnx.ml", offset=MEAN.tolist(), scale=(1 / STD).tolist())],
    "Sub and Div": [node("Sub", "x mean", "c"), node("Div", "c std", "s")],
    "Mul and Add": [node("Cast", "x", "f", to=1), node("Mul", "f scale", "c"), node("Add", "c shift", "s")],
}
WEIGHTS = {"mean": MEAN, "std": STD, "scale": 1 / STD, "shift": (-MEAN / STD)[None], "w": draw(4, 3)}


def teacher(first, weights=WEIGHTS, **more):
    return model([*first, node("MatMul", "s w", "z"), node("Sigmoid", "z", "y")], weights, **more)


@pytest.mark.parametrize("first", FIRST)
def test_the_input_is_taken_at_its_own_scale(tmp_path, first):
    classifier = load_classifier(save(teacher(FIRST[first]), tmp_path))
    spec = classifier.spec
    assert np.allclose(spec.mean, MEAN, atol=1e-4)
    assert np.allclose(spec.std, STD, rtol=1e-5)
    assert (spec.expects, spec.range, spec.source) == ("raw", None, "the scaler that the file begins with")
    rows = torch.from_numpy(draw(5, 4))
    assert torch.allclose(classifier(rows), rows @ torch.from_numpy(draw(4, 3)), atol=1e-4)
    assert any("3 of 3" in check for check in classifier.checks)


def test_flags_go_before(tmp_path):
    path = save(teacher(FIRST["Scaler"]), tmp_path)
    spec = load_classifier(path, TeacherConfig(mean=(1.0,), std=(2.0,))).spec
    assert (spec.mean, spec.source) == ((1.0,), "--mean and --std")


def test_what_the_file_states_goes_before(tmp_path):
    proto = teacher(FIRST["Scaler"])
    stated = {"shape": [4], "mean": [7.0], "std": [1.0], "range": None, "expects": "raw", "source": "me"}
    entry = proto.metadata_props.add()
    entry.key, entry.value = "cake.input", json.dumps(stated)
    assert load_classifier(save(proto, tmp_path)).spec.mean == (7.0,)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf])
def test_a_feature_that_is_turned_round_or_lost_tells_no_scale(tmp_path, scale):
    factors = np.array([1.0, scale, 1.0, 1.0], dtype=np.float32)
    nodes = [node("Mul", "x f", "s"), node("Clip", "s", "c"), node("MatMul", "c w", "y")]
    proto = model(nodes, {"f": factors, "w": draw(4, 3)})
    assert "cake.input" not in open_onnx(save(proto, tmp_path), verify=False).metadata


def test_images_are_left_alone(tmp_path):
    nodes = [node("Sub", "x m", "s"), node("GlobalAveragePool", "s", "p"), node("Flatten", "p", "f"),
             node("MatMul", "f w", "y")]  # fmt: skip
    proto = model(nodes, {"m": draw(3, 1, 1), "w": draw(3, 3)}, inputs=[port("x", ["n", 3, 4, 4])])
    assert "cake.input" not in open_onnx(save(proto, tmp_path)).metadata


def test_the_range_that_the_user_gives_is_what_the_file_is_tried_on(tmp_path):
    nodes = [node("Sub", "x low", "c"), node("Log", "c", "l"), node("MatMul", "l w", "y")]
    path = save(model(nodes, {"low": np.array(100.0, np.float32), "w": draw(4, 3)}), tmp_path)
    with pytest.raises(ModelFileError, match="not finite on random inputs, as onnxruntime") as caught:
        open_onnx(path)
    assert "--input-range" in caught.value.fix
    classifier = load_classifier(path, TeacherConfig(input_range=(1000.0, 1200.0)))
    assert classifier(torch.zeros(2, 4)).isfinite().all()
