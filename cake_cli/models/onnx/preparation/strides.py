"""What torch's exporter makes of `as_strided`: a flat view, read at constant places."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper


def read_flat_gathers(model: ModelProto) -> str | None:
    """A Gather that reads all of a flattened tensor in order is a Reshape (torch's ConvNeXt has one)."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node if node.output}
    count = 0
    for node in model.graph.node:
        if node.op_type != "Gather" or node.domain or any(a.name == "axis" and a.i for a in node.attribute):
            continue
        flat = makers.get(node.input[0])
        places = weights.get(node.input[1])
        if flat is None or flat.op_type != "Reshape" or places is None or places.data_type != TensorProto.INT64:
            continue
        target = weights.get(flat.input[1])
        if target is None or list(numpy_helper.to_array(target)) != [-1]:
            continue
        order = numpy_helper.to_array(places)
        if order.size and (order.reshape(-1) == np.arange(order.size)).all():
            shape = numpy_helper.from_array(np.array(order.shape, dtype=np.int64), f"cake_strides_{count}")
            model.graph.initializer.append(shape)
            node.op_type = "Reshape"
            del node.attribute[:], node.input[:]
            node.input.extend([flat.input[0], shape.name])
            count += 1
    return f"{count} flat reads turned back into shapes" if count else None
