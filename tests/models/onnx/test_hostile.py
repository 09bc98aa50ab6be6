"""Graphs that are valid protobuf and meant to hang, explode or mislead."""

import random
from collections import Counter

import numpy as np
import pytest
from onnx import ModelProto, helper

from cake_cli.errors import CakeError, ModelFileError
from cake_cli.models.onnx import open_onnx
from tests.models.onnx.files import draw, linear, model, node, port, save


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


def test_a_node_without_what_its_operator_needs_is_named(tmp_path):
    proto = linear(end=[node("Add", "z", "y")])
    with pytest.raises(ModelFileError, match=r"'Add' of model\.onnx has 1 inputs and 1 outputs, Add needs 2 and 1"):
        open_onnx(save(proto, tmp_path))


def mutate(proto, source):
    """Changes one thing in a graph, as damage or malice would."""
    graph, one = proto.graph, source.choice(proto.graph.node)
    tensor = source.choice(graph.initializer)
    names = [name for other in graph.node for name in other.output] + [other.name for other in graph.initializer]
    change = source.randrange(9)
    if change == 0 and one.input:
        del one.input[source.randrange(len(one.input))]
    elif change == 1:
        del one.output[source.randrange(len(one.output)) :]
    elif change == 2:
        one.op_type = source.choice(
            ["Relu", "Sub", "Concat", "Scaler", "SVMClassifier", "ZipMap", "Softmax", "Reshape"]
        )
    elif change == 3 and one.input:
        one.input[0] = source.choice([*names, "", "nothing"])
    elif change == 4 and one.attribute:
        del one.attribute[source.randrange(len(one.attribute))]
    elif change == 5 and one.attribute and one.attribute[0].floats:
        del one.attribute[0].floats[1:]
    elif change == 6:
        tensor.dims[0] = source.choice([0, 1, 10**6])
    elif change == 7:
        tensor.data_type = source.choice([2, 6, 7, 8, 10, 16, 21])
    else:
        one.domain = source.choice(["", "ai.onnx.ml", "com.microsoft"])


def victims():
    ml = "ai.onnx.ml"
    scaler = node("Scaler", "x", "s", ml, offset=[0.1] * 4, scale=[2.0] * 4)
    vectors = node(
        "SVMClassifier", "s", "l y", ml, support_vectors=draw(24).tolist(), coefficients=draw(12).tolist(),
        rho=[0.1, 0.2, 0.3], vectors_per_class=[2, 2, 2], kernel_type="RBF", kernel_params=[0.1, 0.0, 3.0],
        classlabels_ints=[0, 1, 2],
    )  # fmt: skip
    yield model([scaler, vectors], {"unused": draw(2)}, outputs=[port("l", [None], 7), port("y", [None, 3])])
    ends = [node("Exp", "z", "e"), node("ReduceSum", "e axis", "t", keepdims=1), node("Div", "e t", "p"),
            node("ArgMax", "p", "i", axis=1), node("ArrayFeatureExtractor", "names i", "l", ml),
            node("ZipMap", "p", "y", ml, classlabels_int64s=[0, 1, 2])]  # fmt: skip
    proto = linear(end=ends, outputs=[port("l", [1, None], 7), port("y", None)])
    more = {"axis": np.array([1], dtype=np.int64), "names": np.array([3, 4, 5], dtype=np.int64)}
    proto.graph.initializer.extend(model([], more).graph.initializer)
    yield proto


def test_damage_anywhere_ends_in_a_sentence(tmp_path):
    random_source = random.Random(0)
    outcomes = Counter()
    for proto in victims():
        for _ in range(60):
            damaged = ModelProto()
            damaged.CopyFrom(proto)
            for _ in range(random_source.randint(1, 2)):
                mutate(damaged, random_source)
            try:
                open_onnx(save(damaged, tmp_path))
            except CakeError as fault:
                outcomes[type(fault).__name__] += bool(fault.fix)
            else:
                outcomes["opened"] += 1
    assert outcomes.total() == 120
    assert outcomes["ModelFileError"] > 60
