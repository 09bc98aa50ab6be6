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


def read_labels(model: ModelProto) -> list[str] | None:
    """The classes as scikit-learn and its like name them, in the order of the scores; None where nothing does."""
    makers = [node for node in model.graph.node if node.domain == "ai.onnx.ml"]
    for node in sorted(makers, key=lambda node: node.op_type != "ZipMap"):
        for attribute in node.attribute:
            if attribute.name in ("classlabels_strings", "classlabels_int64s", "classlabels_ints"):
                texts = [text.decode("utf-8", "replace") for text in attribute.strings]
                numbers = [str(number) for number in attribute.ints]
                if texts or (numbers and numbers != [str(index) for index in range(len(numbers))]):
                    return texts or numbers
    return None


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:MOST_LISTED])
    return shown if len(names) <= MOST_LISTED else f"{shown} and {len(names) - MOST_LISTED} more"
