"""The scale of the input, where a file begins with a standardisation."""

import json

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError
from cake_cli.models.loading import load_classifier
from cake_cli.models.onnx import open_onnx
from tests.models.onnx.files import FLOAT, UINT8, draw, model, node, port, save

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


CHANNELS = np.array([123.7, 116.3, 103.5])
SPREAD = np.array([58.4, 57.1, 57.4])


def picture(first, weights, *, shape=(3, 6, 6), kind=FLOAT):
    """An image of a file's own form, what `first` makes of it, and a linear layer on the mean of each channel."""
    tail = [node("GlobalAveragePool", "s", "p"), node("Flatten", "p", "f"), node("MatMul", "f w", "y")]
    weights = {name: np.asarray(values, np.float32) for name, values in weights.items()} | {"w": draw(3, 3)}
    return model([*first, *tail], weights, inputs=[port("x", ["n", *shape], kind)])


def split(last: bool):
    """Sub and Div with a value a channel, which is the last axis or the first."""
    axes = (1, 1, 3) if last else (1, 3, 1, 1)
    return {"m": CHANNELS.reshape(axes), "d": SPREAD.reshape(axes)}


PICTURES = {
    "channels first": ([node("Sub", "x m", "c"), node("Div", "c d", "s")], split(last=False), (3, 6, 6)),
    "channels last": (
        [node("Sub", "x m", "c"), node("Div", "c d", "h"), node("Transpose", "h", "s", perm=[0, 3, 1, 2])],
        split(last=True), (6, 6, 3)),
    "turned before": (
        [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Sub", "t m", "c"), node("Div", "c d", "s")],
        split(last=False), (6, 6, 3)),
    "batch normalisation": (
        [node("BatchNormalization", "x g b m v", "s", epsilon=0.0)],
        {"g": np.ones(3), "b": np.zeros(3), "m": CHANNELS, "v": SPREAD**2}, (3, 6, 6)),
}  # fmt: skip


@pytest.mark.parametrize("form", PICTURES)
def test_a_normalisation_of_pixels_is_read(tmp_path, form):
    first, weights, shape = PICTURES[form]
    classifier = load_classifier(save(picture(first, weights, shape=shape), tmp_path))
    spec = classifier.spec
    assert spec.shape == (3, 6, 6)
    assert np.allclose(spec.mean, CHANNELS, atol=1e-3)
    assert np.allclose(spec.std, SPREAD, rtol=1e-5)
    assert (spec.expects, spec.range) == ("raw", (0.0, 255.0))
    assert spec.source == "the normalisation that the file begins with"
    rows = torch.from_numpy(draw(5, 3, 6, 6))
    assert torch.allclose(classifier(rows), rows.mean((2, 3)) @ torch.from_numpy(draw(3, 3)), atol=1e-4)


@pytest.mark.parametrize(("first", "weights", "mean", "std", "most"), [
    ([node("Mul", "x k", "s")], {"k": 1 / 255}, 127.5, 255 / 12**0.5, 255.0),
    ([node("Div", "x k", "c"), node("Sub", "c one", "s")], {"k": 127.5, "one": 1.0}, 127.5, 127.5, 255.0),
    ([node("Sub", "x k", "s")], {"k": 127.5}, 127.5, 255 / 12**0.5, 255.0),
    ([node("Sub", "x k", "c"), node("Div", "c k", "s")], {"k": 0.5}, 0.5, 0.5, 1.0),
])  # fmt: skip
def test_one_number_for_all_channels(tmp_path, first, weights, mean, std, most):
    spec = load_classifier(save(picture(first, weights), tmp_path)).spec
    assert spec.mean == pytest.approx((mean,), rel=1e-5)
    assert spec.std == pytest.approx((std,), rel=1e-5)
    assert spec.range == (0.0, most)


def test_constants_may_be_nodes(tmp_path):
    constant = node("Constant", "", "k", value=numpy_helper.from_array(np.array(1 / 255, np.float32)))
    spec = load_classifier(save(picture([constant, node("Mul", "x k", "s")], {}), tmp_path)).spec
    assert spec.range == (0.0, 255.0)


@pytest.mark.parametrize("first", [
    [node("BatchNormalization", "x g g g g", "s")],
    [node("Constant", "", "k", value=numpy_helper.from_array(np.array(["a"], object))), node("Add", "x k", "s")],
])  # fmt: skip
def test_constants_that_do_not_fit_are_left_to_the_conversion(tmp_path, first):
    with pytest.raises(ModelFileError, match=r"cannot be converted|tensors of type STRING"):
        open_onnx(save(teacher(first, {"g": np.ones(7, np.float32), "w": draw(4, 3)}), tmp_path))


def test_bytes_have_a_range(tmp_path):
    first = [node("Cast", "x", "c", to=FLOAT), node("Mul", "c k", "s")]
    classifier = load_classifier(save(picture(first, {"k": 1 / 64}, kind=UINT8), tmp_path))
    assert classifier.spec.range == (0.0, 255.0)
    assert classifier.spec.expects == "raw"
    plain = picture([node("Cast", "x", "s", to=FLOAT)], {}, kind=UINT8)
    assert load_classifier(save(plain, tmp_path)).spec.source == "the file takes bytes"


@pytest.mark.parametrize("shift", [draw(3, 1, 1), np.full((3, 1, 1), 300.0), np.full((3, 1, 1), -120.0)])
def test_what_is_no_normalisation_of_pixels_is_left_alone(tmp_path, shift):
    proto = picture([node("Sub", "x m", "s")], {"m": shift})
    assert "cake.input" not in open_onnx(save(proto, tmp_path)).metadata


def test_the_range_that_the_user_gives_is_what_the_file_is_tried_on(tmp_path):
    nodes = [node("Sub", "x low", "c"), node("Log", "c", "l"), node("MatMul", "l w", "y")]
    path = save(model(nodes, {"low": np.array(100.0, np.float32), "w": draw(4, 3)}), tmp_path)
    with pytest.raises(ModelFileError, match="not finite on random inputs, as onnxruntime") as caught:
        open_onnx(path)
    assert "--input-range" in caught.value.fix
    classifier = load_classifier(path, TeacherConfig(input_range=(1000.0, 1200.0)))
    assert classifier(torch.zeros(2, 4)).isfinite().all()
