"""Graphs that are valid protobuf and meant to hang, explode or mislead."""

import numpy as np
import pytest
from onnx import helper

from cake_cli.errors import ModelFileError
from cake_cli.models.onnx import open_onnx
from tests.models.onnx.files import draw, linear, model, node, save


def refused(proto, folder):
    with pytest.raises(ModelFileError) as caught:
        open_onnx(save(proto, folder))
    return caught.value.what


def test_a_cycle_ends_in_an_error(tmp_path):
    proto = model([node("Add", "x b", "a"), node("Relu", "a", "b"), node("MatMul", "b w", "y")], {"w": draw(4, 3)})
    assert "cycle" in refused(proto, tmp_path)


def test_a_value_made_twice_is_refused(tmp_path):
    proto = linear(end=[node("Relu", "z", "y"), node("Neg", "z", "y")])
    assert "two nodes" in refused(proto, tmp_path)


def function(name, nodes):
    return helper.make_function("own", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 13)])


def test_a_function_that_calls_itself_is_refused(tmp_path):
    proto = linear(
        end=[node("Loop1", "z", "y", "own")],
        functions=[function("Loop1", [node("Loop1", "a", "b", "own")])],
        opsets={"": 13, "own": 1},
    )
    assert "calls itself" in refused(proto, tmp_path)


def test_functions_that_double_at_every_call_are_refused(tmp_path):
    layers = [function("F0", [node("Relu", "a", "b")])]
    for depth in range(1, 60):
        calls = [node(f"F{depth - 1}", "a", "c", "own"), node(f"F{depth - 1}", "c", "b", "own")]
        layers.append(function(f"F{depth}", calls))
    proto = linear(end=[node("F59", "z", "y", "own")], functions=layers, opsets={"": 13, "own": 1})
    assert "unfold into more than 200,000 nodes" in refused(proto, tmp_path)


@pytest.mark.parametrize(
    "bomb",
    [
        [node("ConstantOfShape", "huge", "bomb")],
        [node("Expand", "one huge", "bomb")],
        [node("Range", "zero far one", "bomb")],
        [node("Tile", "row huge", "bomb")],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_constants_of_terabytes_are_refused(tmp_path, bomb):
    weights = {
        "huge": np.array([1 << 40], dtype=np.int64),
        "one": np.array(1, dtype=np.int64),
        "zero": np.array(0, dtype=np.int64),
        "far": np.array(1 << 42, dtype=np.int64),
        "row": np.ones(1, dtype=np.float32),
        "w": draw(4, 3),
    }
    nodes = [
        node("MatMul", "x w", "z"),
        *bomb,
        node("Cast", "bomb", "float", to=1),
        node("ReduceSum", "float", "total", keepdims=0),
        node("Add", "z total", "y"),
    ]
    assert "GiB" in refused(model(nodes, weights), tmp_path)


def test_a_value_that_nothing_makes_is_refused(tmp_path):
    assert "nothing makes the value 'nowhere'" in refused(linear(end=[node("Add", "z nowhere", "y")]), tmp_path)
