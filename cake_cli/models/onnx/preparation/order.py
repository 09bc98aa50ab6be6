"""Topological order, and cutting a graph down to what an output needs."""

from __future__ import annotations

from collections import deque

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from cake_cli.errors import ModelFileError


def reads(node: NodeProto) -> set[str]:
    """Every value a node reads, through its subgraphs too."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            names |= outer_reads(attribute.g)
    return names


def outer_reads(graph: GraphProto) -> set[str]:
    """What a subgraph reads from around it."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    needed = {value.name for value in graph.output}
    for node in graph.node:
        needed |= reads(node)
    return needed - own


def sort_nodes(model: ModelProto) -> str | None:
    """Puts nodes after what they read.

    Raises:
        ModelFileError: if nodes wait for each other, or two make the same value.
    """
    nodes = list(model.graph.node)
    maker: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if name and maker.setdefault(name, index) != index:
                raise ModelFileError(f"two nodes of the graph make the value {name!r}", "export the model again")
    waits = [{maker[name] for name in reads(node) if name in maker} for node in nodes]
    if all(before < index for index, needed in enumerate(waits) for before in needed):
        return None
    followers: list[list[int]] = [[] for _ in nodes]
    for index, needed in enumerate(waits):
        for before in needed:
            followers[before].append(index)
    missing = [len(needed) for needed in waits]
    ready = deque(index for index, count in enumerate(missing) if count == 0)
    order: list[int] = []
    while ready:
        index = ready.popleft()
        order.append(index)
        for follower in followers[index]:
            missing[follower] -= 1
            if missing[follower] == 0:
                ready.append(follower)
    if len(order) < len(nodes):
        stuck = next(node for index, node in enumerate(nodes) if missing[index])
        raise ModelFileError(
            f"the graph has a cycle: node {stuck.name or stuck.op_type!r} waits for its own result",
            "export the model again",
        )
    del model.graph.node[:]
    model.graph.node.extend(nodes[index] for index in order)
    return "nodes put in order"


def keep_output(model: ModelProto, name: str) -> None:
    """Makes one value the only output, and removes the nodes, weights and inputs that it does not need."""
    graph = model.graph
    needed = {name}
    kept: list[NodeProto] = []
    for node in reversed(list(graph.node)):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= reads(node)
    kept.reverse()
    inputs = [value for value in graph.input if value.name in needed]
    outputs = [value for value in (*graph.output, *graph.value_info) if value.name == name][:1]
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(kept)
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    if not outputs:
        graph.output.add().name = name
