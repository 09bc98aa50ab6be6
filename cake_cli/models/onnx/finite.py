"""Weights that are no numbers: what is left of a training that diverged."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper

from cake_cli.errors import ModelFileError
from cake_cli.models.onnx.preparation.spelling import every_node, graphs_of

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
WEIGHTED = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization", "InstanceNormalization"}
    | {"GroupNormalization", "RMSNormalization", "RNN", "GRU", "LSTM", "PRelu"}
    | {"FusedConv", "FusedGemm", "FusedMatMul", "SkipLayerNormalization"}
)
"""Operators whose constants are weights, so that none may be infinite: a mask of minus infinity is added."""
LEARNED = ("Linear", "SVM", "Scaler")
"""How the `ai.onnx.ml` operators begin whose numbers are attributes."""


def refuse_non_finite(model: ModelProto, name: str) -> None:
    """Refuses weights that are NaN or infinite.

    Args:
        model: cut down to the chosen output.
        name: of the file, for the message.

    Raises:
        ModelFileError: with the number of tensors, and the name of the first.
    """
    bad: dict[str, list[str]] = {"NaN": [], "infinite numbers": []}
    for tensor, values, is_weight in _float_constants(model):
        if np.isfinite(values).all():
            continue
        if np.isnan(values).any() and (is_weight or values.size > 1):  # a lone NaN may be what is compared with
            bad["NaN"].append(tensor)
        elif is_weight:
            bad["infinite numbers"].append(tensor)
    for what, names in bad.items():
        if names:
            count = f"{len(names)} tensor{'s' if len(names) > 1 else ''}"
            raise ModelFileError(
                f"the weights of {name} hold {what}: {count}, first {names[0]!r}",
                "give a checkpoint from before the training diverged",
            )


def _float_constants(model: ModelProto) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Name, values, and whether they can only be weights."""
    nodes = list(every_node(model))
    weights = {name for node in nodes if node.op_type in WEIGHTED for name in node.input}
    for graph in (model.graph, *graphs_of(nodes)):
        for tensor in graph.initializer:
            if tensor.data_type in FLOATS:
                yield tensor.name, numpy_helper.to_array(tensor), tensor.name in weights
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR and attribute.t.data_type in FLOATS:
                yield node.output[0], numpy_helper.to_array(attribute.t), node.output[0] in weights
            elif node.domain == "ai.onnx.ml" and node.op_type.startswith(LEARNED) and attribute.floats:
                yield f"{node.name}.{attribute.name}", np.array(attribute.floats), True
