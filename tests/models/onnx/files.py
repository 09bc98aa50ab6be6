"""Small ONNX files, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT, INT64, FLOAT16, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16, TensorProto.UINT8
OPSETS = {"": 13, "ai.onnx.ml": 3, "com.microsoft": 1}


def node(operator: str, inputs: str, outputs: str, domain: str = "", **attributes: object) -> NodeProto:
    """A node; names are separated by spaces, "-" stands for an absent one."""
    names = [["" if name == "-" else name for name in side.split()] for side in (inputs, outputs)]
    return helper.make_node(operator, *names, domain=domain, **attributes)


def port(name: str, shape: Sequence[int | str | None] | None, kind: int = FLOAT):
    """An input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[NodeProto],
    weights: dict[str, np.ndarray] | None = None,
    inputs=None,
    outputs=None,
    opsets: dict[str, int] | None = None,
    functions=(),
) -> ModelProto:
    """A model from x (batch, 4) to y (batch, 3), unless told otherwise."""
    graph = helper.make_graph(
        nodes,
        "graph",
        inputs or [port("x", ["batch", 4])],
        outputs or [port("y", ["batch", 3])],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or OPSETS).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))


def save(proto: ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """Writes a model and returns where."""
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 numbers, the same every time."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def linear(weights: np.ndarray | None = None, end: list[NodeProto] | None = None, **more) -> ModelProto:
    """x W -> y, or -> z and then `end`."""
    weights = draw(4, 3) if weights is None else weights
    return model([node("MatMul", "x w", "z" if end else "y"), *(end or [])], {"w": weights}, **more)
