"""Weights that are no numbers are named; minus infinity in a mask is none of them."""

import numpy as np
import pytest
import torch

from cake_cli.errors import ModelFileError
from cake_cli.models.onnx import open_onnx
from tests.models.onnx.files import draw, linear, model, node, save


def broken(value):
    weights = draw(4, 3)
    weights[1, 2] = value
    return weights


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN"), (np.inf, "infinite numbers")])
def test_a_diverged_model_is_refused_with_the_tensor(tmp_path, value, what, verify):
    with pytest.raises(ModelFileError, match=f"the weights of model.onnx hold {what}: 1 tensor, first 'w'") as caught:
        open_onnx(save(linear(broken(value)), tmp_path), verify=verify)
    assert "diverged" in caught.value.fix


def test_weights_in_a_constant_node_and_in_half_precision(tmp_path):
    nodes = [node("Cast", "x", "h", to=10), node("MatMul", "h w", "z"), node("Cast", "z", "y", to=1)]
    weights = {"w": broken(np.nan).astype(np.float16)}
    with pytest.raises(ModelFileError, match="hold NaN"):
        open_onnx(save(model(nodes, weights), tmp_path))
    proto = linear(broken(np.nan))
    proto.graph.node.insert(0, node("Constant", "", "w"))
    attribute = proto.graph.node[0].attribute.add(name="value", type=4)
    attribute.t.CopyFrom(proto.graph.initializer.pop())
    with pytest.raises(ModelFileError, match="first 'w'"):
        open_onnx(save(proto, tmp_path))


def test_coefficients_of_a_linear_classifier(tmp_path):
    proto = model(
        [node("LinearRegressor", "x", "y", "ai.onnx.ml", coefficients=broken(np.nan).ravel().tolist(), targets=3)]
    )
    with pytest.raises(ModelFileError, match=r"LinearRegressor_0\.coefficients"):
        open_onnx(save(proto, tmp_path))


def test_a_mask_may_be_minus_infinity(tmp_path):
    mask = np.array([[0.0, -np.inf, 0.0]], dtype=np.float32)
    nodes = [
        node("MatMul", "x w", "z"),
        node("Add", "z mask", "m"),
        node("Softmax", "m", "s"),
        node("MatMul", "s v", "y"),
    ]
    proto = model(nodes, {"w": draw(4, 3), "mask": mask, "v": draw(3, 3)})
    x = torch.from_numpy(draw(5, 4))
    assert open_onnx(save(proto, tmp_path)).module(x).isfinite().all()
