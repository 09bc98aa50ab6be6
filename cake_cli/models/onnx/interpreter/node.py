"""One operator call of an ONNX graph, with its attributes as Python values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import AttributeProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor

TORCH_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool,
}

STORED: dict[int, torch.dtype] = {
    **dict.fromkeys((TensorProto.INT4, TensorProto.INT2), torch.int8),
    **dict.fromkeys((TensorProto.UINT4, TensorProto.UINT2), torch.uint8),
    **dict.fromkeys((TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2), torch.float32),
    **dict.fromkeys((TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2FNUZ), torch.float32),
}
"""Narrow types that weights are stored in, for DequantizeLinear, and what holds their values; never computed with."""


LEAST_EPSILON = 2.0**-126
"""What torch 2.11 takes instead of an epsilon of 0, and no variance above 1e-30 notices."""


class UnsupportedOperator(Exception):
    """An operator, or a way of using one, that has no torch counterpart here."""


def torch_dtype(code: int) -> torch.dtype:
    """The torch dtype of an ONNX element type.

    Raises:
        UnsupportedOperator: for strings, float8, int4 and the like.
    """
    if code not in TORCH_DTYPES:
        known = TensorProto.DataType.values()
        name = TensorProto.DataType.Name(code) if code in known else str(code)
        raise UnsupportedOperator(f"tensors of type {name}")
    return TORCH_DTYPES[code]


def tensor_from_proto(proto: TensorProto) -> Tensor:
    """A constant of the file as a CPU tensor of its own memory.

    Raises:
        UnsupportedOperator: for element types that torch does not compute with.
    """
    array = numpy_helper.to_array(proto)
    if proto.data_type in STORED:
        return torch.from_numpy(array.astype(np.float32)).to(STORED[proto.data_type])
    dtype = torch_dtype(proto.data_type)
    if dtype is torch.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).to(dtype)
    return torch.from_numpy(np.array(array, copy=True, order="C"))


@dataclass(frozen=True)
class Node:
    """An operator call: which operator, of which version, with what settings."""

    operator: str
    domain: str
    name: str
    opset: int
    """The version of the operator set of `domain` that the file declares."""
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def from_proto(cls, proto: NodeProto, opset: int, index: int) -> Node:
        """Reads a node.

        Raises:
            UnsupportedOperator: if an attribute refers to a function's parameter or has an unknown type.
        """
        return cls(
            operator=proto.op_type,
            domain=proto.domain,
            name=proto.name or f"{proto.op_type}_{index}",
            opset=opset,
            attributes={attribute.name: _attribute(attribute) for attribute in proto.attribute},
            inputs=tuple(proto.input),
            outputs=tuple(proto.output),
        )

    @property
    def title(self) -> str:
        """How messages name this node."""
        domain = f"{self.domain}." if self.domain else ""
        return f"{domain}{self.operator} (opset {self.opset}, node {self.name!r})"

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute of any type."""
        return self.attributes.get(key, default)

    def integer(self, key: str, default: int = 0) -> int:
        """An integer attribute."""
        return int(self.attributes.get(key, default))

    def flag(self, key: str, default: bool = False) -> bool:
        """An integer attribute that means yes or no."""
        return bool(self.attributes.get(key, default))

    def number(self, key: str, default: float = 0.0) -> float:
        """A float attribute."""
        return float(self.attributes.get(key, default))

    def text(self, key: str, default: str = "") -> str:
        """A string attribute."""
        return str(self.attributes.get(key, default))

    def integers(self, key: str) -> list[int] | None:
        """A list of integers, None where the attribute is absent."""
        values = self.attributes.get(key)
        return None if values is None else list(values)


def _attribute(attribute: AttributeProto) -> Any:
    if attribute.ref_attr_name:
        raise UnsupportedOperator(f"attribute {attribute.name!r} without a value")
    value = onnx.helper.get_attribute_value(attribute)
    kind = attribute.type
    if kind == AttributeProto.STRING:
        return bytes(value).decode("utf-8", "replace")
    if kind == AttributeProto.STRINGS:
        return [bytes(text).decode("utf-8", "replace") for text in value]
    if kind in (AttributeProto.INTS, AttributeProto.FLOATS):
        return tuple(value)
    return value
