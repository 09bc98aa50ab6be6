"""ONNX teachers that mean harm: each is refused, in bounded time and memory, and says so without raw escapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.hostile.conftest import Meet
from tests.hostile.forking import Ended
from tests.models.onnx.files import draw, linear, model, node, port, save

RED = "\x1b[31mred\x9b2J\u202etxt"


def graph_of(nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray] | None = None):
    """A subgraph."""
    held = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    return helper.make_graph(nodes, "inner", inputs, outputs, held)


def cyclic() -> ModelProto:
    return model([node("Add", "x b", "a"), node("Relu", "a", "b"), node("MatMul", "b w", "y")], {"w": draw(4, 3)})


def giant_input() -> ModelProto:
    return linear(inputs=[port("x", [1, 2**40])])


def giant_batch() -> ModelProto:
    return linear(inputs=[port("x", [2**40, 4])], outputs=[port("y", [2**40, 3])])


def giant_tensor() -> ModelProto:
    proto = linear()
    proto.graph.initializer[0].dims[:] = [2**20, 2**20]
    return proto


def negative_tensor() -> ModelProto:
    proto = linear()
    proto.graph.initializer[0].dims[:] = [-4, -3]
    return proto


def endless_loop() -> ModelProto:
    """A Loop of 2^62 turns: a program that is valid, and never ends."""
    body = graph_of(
        [node("Identity", "go", "on"), node("Tanh", "value", "next")],
        [port("turn", [], TensorProto.INT64), port("go", [], TensorProto.BOOL), port("value", ["n", 3])],
        [port("on", [], TensorProto.BOOL), port("next", ["n", 3])],
    )
    weights = {"turns": np.array(2**62), "yes": np.array(True), "w": draw(4, 3)}
    return model([node("MatMul", "x w", "z"), node("Loop", "turns yes z", "y", body=body)], weights)


def nested_branches(depth: int = 24) -> ModelProto:
    """If in If in If, each branch twice: 2^24 nodes if anyone walks all of both."""
    inner = graph_of([node("Tanh", "z", "out0")], [], [port("out0", None)])
    for level in range(1, depth):
        small = graph_of([node("Relu", "z", f"e{level}")], [], [port(f"e{level}", None)])
        both = {"then_branch": inner, "else_branch": inner if level < 12 else small}
        inner = graph_of([node("If", "yes", f"out{level}", **both)], [], [port(f"out{level}", None)])
    nodes = [node("MatMul", "x w", "z"), node("If", "yes", "y", then_branch=inner, else_branch=inner)]
    return model(nodes, {"yes": np.array(True), "w": draw(4, 3)})


def chain_of_functions(length: int = 5000) -> ModelProto:
    """F0 calls F1 calls F2 ...: deeper than a stack."""
    functions = [
        helper.make_function(
            "own", f"F{i}", ["a"], ["b"], [node(f"F{i + 1}", "a", "b", "own")],
            [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)],
        )
        for i in range(length)
    ]  # fmt: skip
    last = helper.make_function(
        "own", f"F{length}", ["a"], ["b"], [node("Relu", "a", "b")], [helper.make_opsetid("", 13)]
    )
    end = [node("F0", "z", "y", "own")]
    return linear(end=end, functions=[*functions, last], opsets={"": 13, "own": 1})


def outer_product() -> ModelProto:
    """Two constants of half a megabyte whose product has 16 billion numbers."""
    weights = {"a": np.ones((2**17, 1), np.float32), "b": np.ones((1, 2**17), np.float32), "w": draw(4, 3)}
    nodes = [
        *(node("MatMul", "a b", "bomb"), node("ReduceSum", "bomb", "total", keepdims=0)),
        *(node("MatMul", "x w", "z"), node("Add", "z total", "y")),
    ]
    return model(nodes, weights)


def wide_product() -> ModelProto:
    """The same of the input, so that no constant shows it."""
    weights = {"one": np.array([1, -1, 1, 1], np.int64), "b": np.ones((1, 2**17), np.float32), "w": draw(4, 3)}
    weights["tall"] = np.ones((1, 1, 2**17, 1), np.float32)
    nodes = [
        *(node("Reshape", "x one", "column"), node("Mul", "column tall", "long"), node("MatMul", "long b", "bomb")),
        *(node("ReduceMean", "bomb", "mean", axes=[1, 2, 3], keepdims=0), node("Unsqueeze", "mean axis", "m")),
        *(node("MatMul", "x w", "z"), node("Add", "z m", "y")),
    ]
    return model(nodes, weights | {"axis": np.array([1], np.int64)})


def enlarged() -> ModelProto:
    """An image made ten thousand times as wide and high."""
    nodes = [
        *(node("Resize", "x - scales", "big"), node("GlobalAveragePool", "big", "p")),
        *(node("Flatten", "p", "f"), node("MatMul", "f w", "y")),
    ]
    weights = {"scales": np.array([1, 1, 1e4, 1e4], np.float32), "w": draw(1, 3)}
    return model(nodes, weights, inputs=[port("x", ["n", 1, 8, 8])])


def enlarged_bytes() -> ModelProto:
    """The same of whole numbers: nothing here computes them, so onnxruntime is asked."""
    nodes = [
        *(node("QuantizeLinear", "x one zero", "q"), node("DequantizeLinear", "q one zero", "d")),
        *(node("Resize", "d - scales", "big"), node("GlobalAveragePool", "big", "p")),
        *(node("Flatten", "p", "f"), node("MatMul", "f w", "y")),
    ]
    weights = {
        "scales": np.array([1, 1, 1e4, 1e4], np.float32),
        "w": draw(1, 3),
        "one": np.float32(1),
        "zero": np.uint8(0),
    }
    return model(nodes, weights, inputs=[port("x", ["n", 1, 8, 8])])


def padded() -> ModelProto:
    nodes = [
        *(node("Pad", "x pads", "big"), node("GlobalAveragePool", "big", "p")),
        *(node("Flatten", "p", "f"), node("MatMul", "f w", "y")),
    ]
    weights = {"pads": np.array([0, 0, 10**5, 10**5, 0, 0, 10**5, 10**5], np.int64), "w": draw(1, 3)}
    return model(nodes, weights, inputs=[port("x", ["n", 1, 8, 8])])


def stretched() -> ModelProto:
    """A transposed convolution with a stride of a hundred thousand."""
    nodes = [
        *(node("ConvTranspose", "x k", "big", strides=[10**5, 10**5]), node("GlobalAveragePool", "big", "p")),
        *(node("Flatten", "p", "f"), node("MatMul", "f w", "y")),
    ]
    return model(nodes, {"k": draw(1, 1, 2, 2), "w": draw(1, 3)}, inputs=[port("x", ["n", 1, 8, 8])])


def long_chain() -> ModelProto:
    """Three thousand nodes in a row."""
    nodes = [
        node("MatMul", "x w", "v0"),
        *(node("Tanh", f"v{i}", f"v{i + 1}") for i in range(3000)),
        node("Identity", "v3000", "y"),
    ]
    return model(nodes, {"w": draw(4, 3)})


REFUSED: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "cyclic graph": (cyclic, "cycle"),
    "giant input": (giant_input, "more than"),
    "giant batch": (giant_batch, "more than"),
    "giant tensor": (giant_tensor, "declares"),
    "negative tensor": (negative_tensor, "negative size"),
    "endless loop": (endless_loop, "Loop"),
    "chain of functions": (chain_of_functions, ""),
    "outer product": (outer_product, ""),
    "wide product": (wide_product, ""),
    "enlarged": (enlarged, ""),
    "enlarged bytes": (enlarged_bytes, "int8"),
    "padded": (padded, ""),
    "stretched": (stretched, ""),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_graph_that_means_harm(refused: Meet, tmp_path: Path, kind: str):
    make, words = REFUSED[kind]
    said = refused(3, "inspect", save(make(), tmp_path))
    assert words in said


@pytest.mark.parametrize("make", [nested_branches, long_chain])
def test_a_deep_graph_ends(run: Callable[..., Ended], tmp_path: Path, make: Callable[[], ModelProto]):
    assert run("inspect", save(make(), tmp_path)).code in (0, 3)
