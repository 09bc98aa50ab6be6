"""The names of the classes, where a file has them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from cake_cli.models.onnx.preparation.spelling import every_node

LABELLED = (
    *("ZipMap", "ArrayFeatureExtractor", "LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"),
    "LabelEncoder",
)
"""`ai.onnx.ml` operators that know the classes, those nearest to the end first."""


def read_names(model: ModelProto) -> dict[str, str]:
    """Names that operators of the graph know, as metadata that a classifier's are taken from.

    Returns:
        `cake.class_names` with a JSON list; empty where the file names no classes, or only numbers them from 0.
    """
    for names in _from_nodes(model):
        if names and names != [str(index) for index in range(len(names))]:
            return {"cake.class_names": json.dumps(names)}
    return {}


def _from_nodes(model: ModelProto) -> Iterator[list[str]]:
    nodes = [node for node in every_node(model) if node.domain == "ai.onnx.ml" and node.op_type in LABELLED]
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in sorted(nodes, key=lambda node: LABELLED.index(node.op_type)):
        found = _of_node(node, tensors)
        if found:
            yield found


def _of_node(node: NodeProto, tensors: Mapping[str, TensorProto]) -> list[str]:
    if node.op_type == "ArrayFeatureExtractor":
        tensor = tensors.get(node.input[0])
        if tensor is None or tensor.data_type not in (TensorProto.STRING, TensorProto.INT64, TensorProto.INT32):
            return []
        values = numpy_helper.to_array(tensor).reshape(-1).tolist()
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
    for attribute in node.attribute:
        if attribute.name in ("classlabels_strings", "values_strings") and attribute.strings:
            return [text.decode("utf-8", "replace") for text in attribute.strings]
        if attribute.name in ("classlabels_ints", "classlabels_int64s") and attribute.ints:
            return [str(number) for number in attribute.ints]
    return []
