"""Old or unusual ways of writing the same thing."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

PLAIN_IR = 8
"""The IR version that old files are raised to; every runtime of today reads it."""


def graphs_of(nodes: list[NodeProto]) -> Iterator[GraphProto]:
    """The graphs among the attributes of nodes, at any depth."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield attribute.g
                yield from graphs_of(list(attribute.g.node))


def every_node(model: ModelProto) -> Iterator[NodeProto]:
    """All nodes, those in subgraphs and functions too."""
    roots = [*model.graph.node, *[node for function in model.functions for node in function.node]]
    yield from roots
    for graph in graphs_of(roots):
        yield from graph.node


def spell_main_domain(model: ModelProto) -> str | None:
    """The main operator set is called '', though some exporters write 'ai.onnx'."""
    changed = False
    imports = [model.opset_import, *[function.opset_import for function in model.functions]]
    for entries in imports:
        plain = {entry.domain for entry in entries}
        for entry in list(entries):
            if entry.domain == "ai.onnx":
                changed = True
                if "" in plain:
                    entries.remove(entry)
                else:
                    entry.domain = ""
    for node in every_node(model):
        if node.domain == "ai.onnx":
            node.domain = ""
            changed = True
    return "operator domain 'ai.onnx' read as the main one" if changed else None


def raise_ir_version(model: ModelProto) -> str | None:
    """Files before IR version 4 read as version 8, which only adds to them."""
    if model.ir_version >= 4:
        return None
    old, model.ir_version = model.ir_version, PLAIN_IR
    return f"IR version {old} read as {PLAIN_IR}"


def drop_listed_initializers(model: ModelProto) -> str | None:
    """Weights that are listed as inputs too, as IR version 3 asked for, are no inputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    weights |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    listed = [value for value in model.graph.input if value.name in weights]
    for value in listed:
        model.graph.input.remove(value)
    return f"{len(listed)} weights listed as inputs" if listed else None


def name_nodes(model: ModelProto) -> str | None:
    """Every node gets a name of its own, so that messages can point at it."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        seen.add(node.name)
    return None
