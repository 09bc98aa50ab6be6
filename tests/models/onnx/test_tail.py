import numpy as np
import pytest
import torch
from onnx import TensorProto

from cake_cli.models.onnx import open_onnx
from tests.models.onnx.files import FLOAT, FLOAT16, draw, linear, model, node, port, save

ENDS = {
    "softmax": ([node("Softmax", "z", "y", axis=-1)], "probs"),
    "old softmax": ([node("Softmax", "z", "y")], "probs"),
    "log-softmax": ([node("LogSoftmax", "z", "y")], "log-probs"),
    "log of softmax": ([node("Softmax", "z", "s"), node("Log", "s", "y")], "log-probs"),
    "sigmoid": ([node("Sigmoid", "z", "y")], "sigmoid"),
    "softmax, then layout": (
        [node("Softmax", "z", "s"), node("Flatten", "s", "i"), node("Identity", "i", "y")],
        "probs",
    ),
    "written out": (
        [node("Exp", "z", "e"), node("ReduceSum", "e axis", "t", keepdims=1), node("Div", "e t", "y")],
        "probs",
    ),
    "exponential of log-probabilities": (
        [node("ReduceLogSumExp", "z", "l", axes=[1], keepdims=0), node("Reshape", "l column", "t"),
         node("Sub", "z t", "p"), node("Exp", "p", "y")],
        "probs",
    ),
    "none": ([node("Identity", "z", "y")], "logits"),
}  # fmt: skip
NUMBERS = {"axis": np.array([1], dtype=np.int64), "column": np.array([-1, 1], dtype=np.int64)}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_is_taken_off_and_recorded(tmp_path, end):
    nodes, kind = ENDS[end]
    proto = linear(end=nodes)
    proto.graph.initializer.extend(model([], NUMBERS).graph.initializer)
    opened = open_onnx(save(proto, tmp_path))
    x = draw(5, 4, seed=1)
    assert opened.output_kind == kind
    assert np.allclose(opened.module(torch.from_numpy(x)).numpy(), x @ draw(4, 3), atol=1e-5)


def test_probabilities_whose_softmax_is_not_seen_become_their_logarithm(tmp_path):
    nodes = [
        node("Softplus", "z", "s"),
        node("ReduceSum", "s axis", "t", keepdims=1),
        node("Div", "s t", "y"),
    ]
    proto = linear(end=nodes)
    proto.graph.initializer.extend(model([], {"axis": np.array([1], dtype=np.int64)}).graph.initializer)
    opened = open_onnx(save(proto, tmp_path))
    x = draw(5, 4, seed=1)
    assert opened.output_kind == "probs"
    assert np.allclose(opened.module(torch.from_numpy(x)).exp().numpy(), opened.reference(x), atol=1e-6)


def test_one_sigmoid_output_stays_one_column(tmp_path):
    proto = linear(draw(4, 1), end=[node("Sigmoid", "z", "y")], outputs=[port("y", ["n", 1])])
    opened = open_onnx(save(proto, tmp_path))
    assert opened.output_kind == "sigmoid"
    assert opened.module(torch.zeros(2, 4)).shape == (2, 1)


def test_both_sides_of_a_sigmoid_are_two_logits(tmp_path):
    nodes = [node("Sigmoid", "z", "p"), node("Sub", "one p", "q"), node("Concat", "q p", "y", axis=1)]
    proto = linear(draw(4, 1) * 40, end=nodes, outputs=[port("y", ["n", 2])])
    proto.graph.initializer.extend(model([], {"one": np.ones(1, dtype=np.float32)}).graph.initializer)
    opened = open_onnx(save(proto, tmp_path))
    x = draw(5, 4, seed=1)
    logits = opened.module(torch.from_numpy(x))
    assert opened.output_kind == "probs"
    assert np.allclose(logits.softmax(1).numpy(), opened.reference(x), atol=1e-6)
    assert np.allclose(logits[:, 1:].numpy(), x @ draw(4, 1) * 40, rtol=1e-4)  # where the sigmoid is flat, too


def test_classes_in_an_image_of_one_pixel_are_flattened(tmp_path):
    shape = {"s": np.array([0, 3, 1, 1], dtype=np.int64)}
    proto = linear(
        end=[node("Reshape", "z s", "r"), node("Softmax", "r", "y", axis=1)], outputs=[port("y", ["n", 3, 1, 1])]
    )
    proto.graph.initializer.extend(model([], shape).graph.initializer)
    opened = open_onnx(save(proto, tmp_path))
    assert opened.module(torch.zeros(2, 4)).shape == (2, 3)
    assert opened.reference(draw(2, 4)).shape == (2, 3)


@pytest.mark.parametrize("where", ["on the way", "input", "output", "bfloat16 output"])
def test_what_rounds_to_sixteen_bits_without_such_weights_is_held_to_its_own_rounding(tmp_path, where):
    """As autocast leaves it: weights of 32 bits, and casts around the products."""
    kind = TensorProto.BFLOAT16 if where == "bfloat16 output" else FLOAT16
    ends = FLOAT if where in ("on the way", "input") else kind
    nodes = [node("Cast", "x", "h", to=FLOAT if where == "input" else kind), node("Cast", "h", "f", to=FLOAT)]
    nodes += [node("MatMul", "f w", "z"), node("Cast", "z", "y", to=ends)]
    inputs = [port("x", ["n", 4], FLOAT16 if where == "input" else FLOAT)]
    outputs = [port("y", ["n", 3], ends)]
    proto = model(nodes, {"w": draw(4, 3)}, inputs, outputs)
    opened = open_onnx(save(proto, tmp_path))
    x = draw(5, 4, seed=1)
    assert "computed in float32" in " ".join(opened.mends)
    assert np.allclose(opened.module(torch.from_numpy(x)).numpy(), x @ draw(4, 3), atol=1e-5)
