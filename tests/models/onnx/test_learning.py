"""scikit-learn's exports, written as skl2onnx writes them."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from cake_cli.models.onnx import open_onnx
from tests.models.onnx.files import INT64, draw, model, node, port, save

ML = "ai.onnx.ml"


def label_and_map():
    kind = helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    return [port("label", [None], INT64), helper.make_value_info("map", helper.make_sequence_type_proto(kind))]


def linear_classifier(classes, rows, transform):
    return [
        node(
            "LinearClassifier", "s", "label p", ML,
            coefficients=draw(rows * 4).tolist(), intercepts=draw(rows).tolist(),
            classlabels_ints=list(range(classes)), post_transform=transform,
        ),
        node("Normalizer", "p", "q", ML, norm="L1"),
        node("ZipMap", "q", "map", ML, classlabels_int64s=list(range(classes))),
    ]  # fmt: skip


@pytest.mark.parametrize("transform", ["SOFTMAX", "LOGISTIC"])
@pytest.mark.parametrize(("classes", "rows"), [(3, 3), (2, 2)])
def test_logistic_regression_behind_a_scaler(tmp_path, classes, rows, transform):
    scaler = node("Scaler", "x", "s", ML, offset=[0.1, 0.2, 0.3, 0.4], scale=[1.0, 2.0, 0.5, 1.0])
    opened = open_onnx(
        save(model([scaler, *linear_classifier(classes, rows, transform)], outputs=label_and_map()), tmp_path)
    )
    x = draw(6, 4, seed=3)
    assert opened.output_kind == "probs"
    assert opened.mends == ("ZipMap taken off the scores",)
    found = torch.softmax(opened.module(torch.from_numpy(x)), 1).numpy()
    assert np.allclose(found, opened.reference(x), atol=1e-6)


def test_one_row_of_weights_for_two_classes(tmp_path):
    scaler = node("Scaler", "x", "s", ML, offset=[0.0] * 4, scale=[1.0] * 4)
    opened = open_onnx(save(model([scaler, *linear_classifier(2, 1, "LOGISTIC")], outputs=label_and_map()), tmp_path))
    x = draw(6, 4, seed=3)
    assert np.allclose(opened.module(torch.from_numpy(x)).exp().numpy(), opened.reference(x), atol=1e-6)


@pytest.mark.parametrize("norm", ["L1", "L2", "MAX"])
def test_normalizer_and_regressor(tmp_path, norm):
    nodes = [
        node("Normalizer", "x", "n", ML, norm=norm),
        node("LinearRegressor", "n", "y", ML, coefficients=draw(12).tolist(), intercepts=draw(3).tolist(), targets=3),
    ]
    opened = open_onnx(save(model(nodes), tmp_path))
    x = np.abs(draw(6, 4))
    assert np.allclose(opened.module(torch.from_numpy(x)).numpy(), opened.reference(x), atol=1e-5)


def test_a_perceptron_with_labels_looked_up(tmp_path):
    nodes = [
        node("MatMul", "x w", "h"),
        node("Relu", "h", "r"),
        node("MatMul", "r v", "z"),
        node("Softmax", "z", "p", axis=-1),
        node("ArgMax", "p", "i", axis=1),
        node("ArrayFeatureExtractor", "classes i", "label", ML),
        node("ZipMap", "p", "map", ML, classlabels_int64s=[0, 1, 2]),
    ]
    weights = {"w": draw(4, 5), "v": draw(5, 3), "classes": np.array([0, 1, 2], dtype=np.int64)}
    opened = open_onnx(save(model(nodes, weights, outputs=label_and_map()), tmp_path))
    assert opened.output_kind == "probs"
    assert opened.module(torch.zeros(7, 4)).shape == (7, 3)
