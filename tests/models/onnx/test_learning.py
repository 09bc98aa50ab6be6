"""scikit-learn's exports, written as skl2onnx writes them."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from cake_cli.models.loading import load_classifier
from cake_cli.models.onnx import open_onnx
from tests.models.onnx.files import INT64, draw, linear, model, node, port, save

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


@pytest.mark.parametrize(("transform", "within"), [("SOFTMAX_ZERO", 1e-5), ("PROBIT", 2e-4)])  # onnxruntime: a series
def test_other_transforms_of_scores(tmp_path, transform, within):
    classifier = node(
        "LinearClassifier", "x", "label y", ML, coefficients=(draw(12) / 50).tolist(), intercepts=[0.3, 0.4, 0.5],
        classlabels_ints=[0, 1, 2], post_transform=transform,
    )  # fmt: skip
    outputs = [port("label", [None], INT64), port("y", [None, 3])]
    opened = open_onnx(save(model([classifier], outputs=outputs), tmp_path))
    x = draw(6, 4, seed=3)
    found = opened.module(torch.from_numpy(x))
    found = found.softmax(1) if opened.output_kind == "probs" else found
    assert np.allclose(found.numpy(), opened.reference(x), atol=within)


@pytest.mark.parametrize("divide", [[node("Reciprocal", "b", "y")], [node("Div", "one b", "y")]])
@pytest.mark.parametrize("minus", [[node("Neg", "z", "n")], [node("Mul", "z negative", "n")]])
def test_a_written_out_sigmoid_has_a_gradient_where_its_exponential_overflows(tmp_path, divide, minus):
    nodes = [node("MatMul", "x w", "z"), *minus, node("Exp", "n", "e"), node("Add", "e one", "b"), *divide]
    weights = {"w": draw(4, 3), "one": np.ones((), np.float32), "negative": -np.ones((), np.float32)}
    opened = open_onnx(save(model(nodes, weights), tmp_path))
    assert opened.mends == ("1 written-out sigmoids turned back",)
    assert opened.output_kind == "sigmoid"
    x = torch.full((2, 4), -1000.0, requires_grad=True)
    assert torch.autograd.grad(opened.module(x).sum(), x)[0].isfinite().all()


def test_nan_that_a_graph_leaves_out_is_no_gradient(tmp_path):
    nodes = [
        node("Pow", "x e", "p"), node("Imputer", "p", "i", ML, imputed_value_floats=[0.0], replaced_value_float=np.nan),
        node("MatMul", "i w", "y"),
    ]  # fmt: skip
    opened = open_onnx(save(model(nodes, {"e": np.array([0.5, 1.5, 2.0, 3.0], np.float32), "w": draw(4, 3)}), tmp_path))
    x = torch.tensor([[-1.0, -2.0, -3.0, -4.0]], requires_grad=True)
    slope = torch.autograd.grad(opened.module(x).sum(), x)[0]
    assert slope.isfinite().all()
    assert (slope[0, :2] == 0).all()
    assert (slope[0, 2:] != 0).all()


@pytest.mark.parametrize(("labels", "names"), [
    ({"classlabels_strings": ["setosa", "versicolor", "virginica"]}, ("setosa", "versicolor", "virginica")),
    ({"classlabels_int64s": [3, 5, 8]}, ("3", "5", "8")),
    ({"classlabels_int64s": [0, 1, 2]}, None),
])  # fmt: skip
def test_names_of_classes_are_read(tmp_path, labels, names):
    nodes = [node("Softmax", "z", "p", axis=1), node("ZipMap", "p", "map", ML, **labels)]
    proto = linear(end=nodes, outputs=label_and_map()[1:])
    assert load_classifier(save(proto, tmp_path)).class_names == names
