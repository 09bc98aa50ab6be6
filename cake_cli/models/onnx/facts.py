"""What `inspect` shows of an ONNX file."""

from __future__ import annotations

import math

from onnx import ModelProto

from cake_cli.models.onnx.reading import every_tensor
from cake_cli.models.onnx.signature import Port

MOST_LISTED = 8


def read_facts(model: ModelProto) -> dict[str, str]:
    """Producer, operator sets, inputs, outputs and size of a model as it was read."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [str(Port.of(value)) for value in model.graph.input if value.name not in weights]
    outputs = [str(Port.of(value)) for value in model.graph.output]
    producer = f"{model.producer_name} {model.producer_version}".strip()
    opsets = ", ".join(_opsets(model))
    return {
        "producer": producer or "not said",
        "opset": opsets or "not said",
        "IR version": str(model.ir_version),
        "inputs": _listed(inputs),
        "outputs": _listed(outputs),
        "nodes": str(len(model.graph.node)),
        "parameters": str(sum(math.prod(tensor.dims) for tensor in every_tensor(model) if tensor.dims)),
    }


def _opsets(model: ModelProto) -> list[str]:
    """The version of the main operator set alone, then those of other domains by name."""
    main = [str(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    others = [f"{entry.domain} {entry.version}" for entry in model.opset_import if entry.domain not in ("", "ai.onnx")]
    return main[:1] + others


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:MOST_LISTED])
    return shown if len(names) <= MOST_LISTED else f"{shown} and {len(names) - MOST_LISTED} more"
