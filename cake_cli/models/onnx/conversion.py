"""From a prepared graph to a torch module, by either way."""

from __future__ import annotations

import warnings
from typing import Literal

from onnx import ModelProto
from torch import nn

from cake_cli.models.onnx.interpreter import Interpreter

Converter = Literal["interpreter", "onnx2torch"]

ORDER: tuple[Converter, ...] = ("interpreter", "onnx2torch")
"""Which way is tried first: see `tests/models/onnx/export_matrix.py` for the measurements behind it."""

IN_MEMORY = 2_000_000_000
"""onnx2torch writes larger models to a temporary file: it does not get them."""


class ConversionFailed(Exception):
    """A way from ONNX to torch does not take this graph."""


def convert(model: ModelProto, way: Converter) -> nn.Module:
    """A module that takes one tensor and returns one.

    Args:
        model: prepared; not changed.
        way: which converter.

    Raises:
        UnsupportedOperator, GraphError: by the interpreter, with the operator, its opset and the node.
        ConversionFailed: by onnx2torch, for whatever reason.
    """
    if way == "interpreter":
        return Interpreter(model)
    if model.ByteSize() > IN_MEMORY:
        raise ConversionFailed("too large for onnx2torch in memory")
    copy = ModelProto()
    copy.CopyFrom(model)
    for index, node in enumerate(copy.graph.node):
        node.name = f"node_{index}"  # names become attributes of a module
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from onnx2torch.converter import convert as onnx2torch_convert

            module: nn.Module = onnx2torch_convert(copy)
    except Exception as fault:  # it raises anything from KeyError to NotImplementedError
        raise ConversionFailed(f"onnx2torch: {type(fault).__name__}: {fault}") from fault
    return module.eval().requires_grad_(False)
