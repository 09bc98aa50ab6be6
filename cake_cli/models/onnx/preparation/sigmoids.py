"""The logistic function written out, whose gradient is no number where its exponential overflows."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, numpy_helper


def read_sigmoids(model: ModelProto) -> str | None:
    """1 / (1 + exp(-z)) is a Sigmoid (scikit-learn's exports of SGDClassifier have it)."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    values = {
        tensor.name: float(numpy_helper.to_array(tensor).reshape(-1)[0])
        for tensor in model.graph.initializer
        if all(size == 1 for size in tensor.dims) and tensor.data_type in (1, 10, 11)
    }
    count = 0
    for node in model.graph.node:
        below = _reciprocal_of(node, values)
        added = _other_operand(makers.get(below), "Add", 1.0, values)
        exponential = makers.get(added)
        if exponential is None or exponential.op_type != "Exp":
            continue
        minus = makers.get(exponential.input[0])
        score = minus.input[0] if minus is not None and minus.op_type == "Neg" else ""
        score = score or _other_operand(minus, "Mul", -1.0, values)
        if score:
            node.op_type = "Sigmoid"
            del node.attribute[:], node.input[:]
            node.input.append(score)
            count += 1
    return f"{count} written-out sigmoids turned back" if count else None


def _reciprocal_of(node: NodeProto, values: dict[str, float]) -> str:
    """What a node divides one by; empty where it does something else."""
    if node.domain:
        return ""
    if node.op_type == "Reciprocal":
        return str(node.input[0])
    return str(node.input[1]) if node.op_type == "Div" and values.get(node.input[0]) == 1.0 else ""


def _other_operand(node: NodeProto | None, operator: str, value: float, values: dict[str, float]) -> str:
    """The operand beside a number in a sum or product; empty where there is none."""
    if node is None or node.domain or node.op_type != operator:
        return ""
    first, second = str(node.input[0]), str(node.input[1])
    if values.get(second) == value:
        return first
    return second if values.get(first) == value else ""
