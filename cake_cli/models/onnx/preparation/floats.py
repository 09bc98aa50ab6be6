"""Sixteen- and sixty-four-bit floats, computed in thirty-two."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, numpy_helper

from cake_cli.models.onnx.preparation.spelling import every_node, graphs_of
from cake_cli.models.onnx.reading import every_tensor

OTHER_FLOATS: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}


_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def computes_in_half(model: ModelProto) -> bool:
    """Whether a file rounds to sixteen bits: weights, inputs, outputs, or what is cast on the way."""
    graphs = (model.graph, *graphs_of(list(model.graph.node)))
    kinds = {tensor.data_type for tensor in every_tensor(model)}
    kinds |= {value.type.tensor_type.elem_type for graph in graphs for value in (*graph.input, *graph.output)}
    named = (attribute for node in every_node(model) for attribute in node.attribute)
    kinds |= {attribute.i for attribute in named if attribute.name in ("to", "dtype")}
    return not kinds.isdisjoint(_HALF)


def widen_floats(model: ModelProto) -> str | None:
    """Turns float16, bfloat16 and float64 weights, inputs and casts into float32."""
    found: set[str] = set()
    for tensor in every_tensor(model):
        if tensor.data_type in OTHER_FLOATS:
            found.add(OTHER_FLOATS[tensor.data_type])
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for graph in (model.graph, *graphs_of(list(model.graph.node))):
        found |= _widen_graph(graph)
    return f"{' and '.join(sorted(found))} computed in float32" if found else None


def _widen_graph(graph: GraphProto) -> set[str]:
    found: set[str] = set()
    for value in (*graph.input, *graph.output, *graph.value_info):
        found |= _widen_value(value)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in OTHER_FLOATS:
                found.add(OTHER_FLOATS[attribute.i])
                attribute.i = TensorProto.FLOAT
    return found


def _widen_value(value: ValueInfoProto) -> set[str]:
    kind = value.type.tensor_type.elem_type
    if not value.type.HasField("tensor_type") or kind not in OTHER_FLOATS:
        return set()
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    return {OTHER_FLOATS[kind]}
