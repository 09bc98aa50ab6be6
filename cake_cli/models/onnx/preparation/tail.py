"""The softmax, log-softmax or sigmoid at the end of a classifier, taken off."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from cake_cli.models.opened import OutputKind

LAYOUT = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout"})
"""Operators that may stand after the softmax without changing its values."""

KINDS: dict[str, OutputKind] = {"Softmax": "probs", "LogSoftmax": "log-probs", "Sigmoid": "sigmoid"}
POST_TRANSFORMS: dict[str, OutputKind] = {"SOFTMAX": "probs"}


def take_off_tail(model: ModelProto) -> tuple[OutputKind, str | None]:
    """Lets the output of the graph be the logits.

    Args:
        model: with one output; changed in place.

    Returns:
        What the file ended in, and the value that holds the logits in the file's own graph, if there is one.
    """
    makers = {name: node for node in model.graph.node for name in node.output if name}
    reader: NodeProto | None = None
    name = model.graph.output[0].name
    node = makers.get(name)
    while node is not None and node.op_type in LAYOUT and not node.domain:
        reader, name = node, node.input[0]
        node = makers.get(name)
    if node is None:
        return "logits", None
    if _is_l1_normalizer(node):
        before = makers.get(node.input[0])
        before = makers.get(before.input[0]) if before is not None and before.op_type == "Cast" else before
        if before is not None and _post_transform(before) == "SOFTMAX":
            node, name = before, before.output[1]
    if _post_transform(node) in POST_TRANSFORMS and len(node.output) > 1 and name == node.output[1]:
        kind = POST_TRANSFORMS[_post_transform(node)]
        for attribute in node.attribute:
            if attribute.name == "post_transform":
                attribute.s = b"NONE"
        _connect(model, reader, name)
        return kind, None
    if node.domain:
        return "logits", None
    if _is_two_sided(node, makers, model):
        _connect(model, reader, _two_logits(model, makers[node.input[1]].input[0]))
        return "probs", None
    found = _softmax(node, makers)
    if found is None:
        return "logits", None
    kind, logits = found
    _connect(model, reader, logits)
    return kind, logits if reader is None else None


def _softmax(node: NodeProto, makers: dict[str, NodeProto]) -> tuple[OutputKind, str] | None:
    """What a softmax node (or nodes that amount to one) is, and the value it is taken of."""
    if node.op_type in KINDS:
        return KINDS[node.op_type], node.input[0]
    first = makers.get(node.input[0]) if node.input else None
    if node.op_type == "Log" and first is not None and first.op_type == "Softmax":
        return "log-probs", first.input[0]
    if node.op_type == "Div" and first is not None and first.op_type == "Exp":
        total = makers.get(node.input[1])
        if total is not None and total.op_type == "ReduceSum" and total.input[0] == node.input[0]:
            return "probs", first.input[0]
    if node.op_type == "Exp" and first is not None and first.op_type == "Sub":  # of log-probabilities
        total = makers.get(first.input[1])
        while total is not None and total.op_type in LAYOUT and not total.domain:
            total = makers.get(total.input[0])
        if total is not None and total.op_type == "ReduceLogSumExp" and total.input[0] == first.input[0]:
            return "probs", first.input[0]
    return None


def _is_two_sided(node: NodeProto, makers: dict[str, NodeProto], model: ModelProto) -> bool:
    """Whether a node joins 1 - sigmoid(z) and sigmoid(z)."""
    if node.op_type != "Concat" or len(node.input) != 2:
        return False
    other, sigmoid = (makers.get(name) for name in node.input)
    if other is None or sigmoid is None or (other.op_type, sigmoid.op_type) != ("Sub", "Sigmoid"):
        return False
    one = next((tensor for tensor in model.graph.initializer if tensor.name == other.input[0]), None)
    return one is not None and other.input[1] == node.input[1] and bool((numpy_helper.to_array(one) == 1).all())


def _two_logits(model: ModelProto, score: str) -> str:
    """The logits (N, 2) of a binary score (N, 1): zero, and it."""
    zero = numpy_helper.from_array(np.zeros((), dtype=np.float32), "cake_zero")
    model.graph.initializer.append(zero)
    model.graph.node.append(helper.make_node("Mul", [score, zero.name], ["cake_first"], name="cake_first"))
    model.graph.node.append(
        helper.make_node("Concat", ["cake_first", score], ["cake_logits"], name="cake_logits", axis=1)
    )
    return "cake_logits"


def _post_transform(node: NodeProto) -> str:
    if node.domain != "ai.onnx.ml":
        return ""
    fields = {attribute.name: attribute for attribute in node.attribute}
    classes = max(
        (len(fields[key].ints or fields[key].strings) for key in fields if key.startswith("classlabels")), default=0
    )
    if "intercepts" in fields and len(fields["intercepts"].floats) < classes:
        return ""  # one row of weights for two classes: the transform means something else
    return fields["post_transform"].s.decode("utf-8", "replace") if "post_transform" in fields else ""


def _is_l1_normalizer(node: NodeProto) -> bool:
    norm = next((a.s for a in node.attribute if a.name == "norm"), b"MAX")
    return node.op_type == "Normalizer" and node.domain == "ai.onnx.ml" and norm == b"L1"


def _connect(model: ModelProto, reader: NodeProto | None, logits: str) -> None:
    """Lets the layout node after the softmax, or the graph output, read the logits."""
    if reader is not None:
        reader.input[0] = logits
        return
    output = model.graph.output[0]
    if not output.type.HasField("tensor_type"):
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    output.name = logits
