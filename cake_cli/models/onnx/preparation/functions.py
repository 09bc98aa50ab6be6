"""Local functions, put in place of their calls."""

from __future__ import annotations

from onnx import AttributeProto, ModelProto, NodeProto, inliner

from cake_cli.errors import ModelFileError

MOST_NODES = 200_000
"""A graph that unfolds into more is refused: functions that call functions grow exponentially."""

Key = tuple[str, str]


def inline_functions(model: ModelProto) -> str | None:
    """Replaces calls of the model's own functions by their bodies.

    Raises:
        ModelFileError: if a function calls itself, or the graph would unfold beyond measure.
    """
    if not model.functions:
        return None
    count = len(model.functions)
    bodies = {(function.domain, function.name): list(function.node) for function in model.functions}
    sizes: dict[Key, int] = {}
    for key in bodies:
        _unfolded(key, bodies, sizes, [])
    if _total(list(model.graph.node), bodies, sizes, []) > MOST_NODES:
        raise ModelFileError(
            f"the local functions of the model unfold into more than {MOST_NODES:,} nodes",
            "export the model without functions",
        )
    model.CopyFrom(inliner.inline_local_functions(model, convert_version=True))
    return f"{count} local functions inlined"


def _unfolded(key: Key, bodies: dict[Key, list[NodeProto]], sizes: dict[Key, int], path: list[Key]) -> int:
    """How many nodes a call of a function becomes."""
    if key in path or len(path) > 100:
        raise ModelFileError(f"the local function {key[1]!r} calls itself", "export the model again")
    if key not in sizes:
        sizes[key] = _total(bodies[key], bodies, sizes, [*path, key])
    return sizes[key]


def _total(nodes: list[NodeProto], bodies: dict[Key, list[NodeProto]], sizes: dict[Key, int], path: list[Key]) -> int:
    total = 0
    for node in nodes:
        key = (node.domain, node.op_type)
        total += _unfolded(key, bodies, sizes, path) if key in bodies else 1
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                total += _total(list(attribute.g.node), bodies, sizes, path)
    return total
