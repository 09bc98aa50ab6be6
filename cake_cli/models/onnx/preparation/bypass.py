"""Nodes that do nothing at inference, and those that only wrap the result."""

from __future__ import annotations

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper


def rename_reads(graph: GraphProto, names: dict[str, str]) -> None:
    """Lets every reader of a value read another one, in subgraphs too."""
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in names:
                node.input[position] = names[name]
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                rename_reads(attribute.g, names)
                for value in attribute.g.output:
                    value.name = names.get(value.name, value.name)


def _bypass(model: ModelProto, nodes: list[NodeProto]) -> int:
    """Removes nodes whose first output equals their first input; those that make a graph output stay."""
    outputs = {value.name for value in model.graph.output}
    removable = [node for node in nodes if node.output[0] not in outputs]
    names: dict[str, str] = {}
    for node in removable:
        names[node.output[0]] = names.get(node.input[0], node.input[0])
        model.graph.node.remove(node)
    if names:
        rename_reads(model.graph, names)
    return len(removable)


def _has_reader(model: ModelProto, name: str) -> bool:
    return bool(name) and (
        any(name in node.input for node in model.graph.node) or any(name == out.name for out in model.graph.output)
    )


def bypass_dropout(model: ModelProto) -> str | None:
    """Dropout passes its input on at inference; a mask that nobody reads is no second output."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    idle: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "Dropout" or node.domain:
            continue
        training = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        decided = len(node.input) < 3 or not node.input[2] or (training is not None and not any(_bytes(training)))
        if decided and not (len(node.output) > 1 and _has_reader(model, node.output[1])):
            idle.append(node)
    count = _bypass(model, idle)
    return f"{count} Dropout bypassed" if count else None


def _bytes(tensor: TensorProto) -> bytes:
    return tensor.raw_data or bytes(int(value) & 1 for value in tensor.int32_data)


def bypass_identity(model: ModelProto) -> str | None:
    """Identity nodes, those of weights too, give way to what they copy."""
    count = _bypass(model, [node for node in model.graph.node if node.op_type == "Identity" and not node.domain])
    return f"{count} Identity bypassed" if count else None


def bypass_zipmap(model: ModelProto) -> str | None:
    """A list of {class: score} (scikit-learn exports) gives way to the tensor of scores inside it."""
    makers = {node.output[0]: node for node in model.graph.node if node.op_type == "ZipMap"}
    wrapped = [value for value in model.graph.output if value.name in makers]
    for value in wrapped:
        node = makers[value.name]
        scores = helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, None)
        value.CopyFrom(scores)
        model.graph.node.remove(node)
    return "ZipMap taken off the scores" if wrapped else None
