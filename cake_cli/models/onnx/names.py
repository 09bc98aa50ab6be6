"""The names of the classes, where a file has them."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from cake_cli.models.onnx.preparation.spelling import every_node

KEYS = ("cake.class_names", "names", "class_names", "classes", "labels", "id2label")
"""Metadata keys under which exporters write them; Ultralytics writes `names`."""
LABELLED = ("ZipMap", "ArrayFeatureExtractor", "LinearClassifier", "SVMClassifier", "LabelEncoder")
"""`ai.onnx.ml` operators that know the classes, those nearest to the end first."""
LONGEST = 1 << 20
"""Texts beyond this are not read."""


def read_names(model: ModelProto, metadata: Mapping[str, str]) -> dict[str, str]:
    """Names as metadata that a classifier's are taken from, where their number is right.

    Args:
        model: as it was read.
        metadata: its key-value pairs.

    Returns:
        `cake.class_names` with a JSON list; empty where the file names no classes, or only numbers them from 0.
    """
    for names in (*_from_metadata(metadata), *_from_nodes(model)):
        if names and names != [str(index) for index in range(len(names))]:
            return {"cake.class_names": json.dumps(names)}
    return {}


def _from_metadata(metadata: Mapping[str, str]) -> Iterator[list[str]]:
    for key in KEYS:
        found = _listed(_literal(metadata.get(key, "")))
        if found:
            yield found


def _literal(text: str) -> Any:
    """A list or table written as JSON or as Python does; nothing of it is run."""
    if not text or len(text) > LONGEST:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def _listed(value: Any) -> list[str]:
    """Names in order, of a list, or of a table by number."""
    if isinstance(value, dict):
        try:
            places = {int(key): name for key, name in value.items()}
        except (TypeError, ValueError):
            return []
        value = [places[index] for index in range(len(places))] if set(places) == set(range(len(places))) else None
    if not isinstance(value, list) or not all(isinstance(name, str | int) for name in value):
        return []
    return [str(name) for name in value]


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
