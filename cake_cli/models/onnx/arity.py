"""Whether nodes have the inputs and outputs that their operators need, so that whoever reads them may rely on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from onnx import AttributeProto, ModelProto, NodeProto, defs

from cake_cli.errors import ModelFileError

DEEPEST = 50
"""How many graphs may lie within each other."""


def check_nodes(model: ModelProto, path: Path) -> None:
    """Compares every node with the schema of its operator.

    Args:
        model: as it was read; experimental operators, and those of domains unknown to onnx, only need an output.
        path: for the message.

    Raises:
        ModelFileError: naming the node.
    """
    opsets = {_plain(entry.domain): entry.version for entry in model.opset_import}
    local = {(function.domain, function.name) for function in model.functions}
    _check(model.graph.node, opsets, local, path, 0)
    for function in model.functions:
        own = {_plain(entry.domain): entry.version for entry in function.opset_import}
        _check(function.node, opsets | own, local, path, 0)


def _check(
    nodes: Sequence[NodeProto], opsets: dict[str, int], local: set[tuple[str, str]], path: Path, depth: int
) -> None:
    if depth > DEEPEST:
        raise ModelFileError(f"{path.name} has more than {DEEPEST} graphs within each other", "export it again")
    for node in nodes:
        domain = _plain(node.domain)
        inputs, outputs = (0, 1)
        if (node.domain, node.op_type) not in local:
            inputs, outputs = _least(node.op_type, opsets.get(domain, 1), domain)
        if len(node.input) < inputs or len(node.output) < outputs:
            raise ModelFileError(
                f"node {node.name or node.op_type!r} of {path.name} has {len(node.input)} inputs and "
                f"{len(node.output)} outputs, {node.op_type} needs {inputs} and {outputs}",
                "the file is damaged: download or export it again",
            )
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _check(attribute.g.node, opsets, local, path, depth + 1)


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


@cache
def _least(operator: str, version: int, domain: str) -> tuple[int, int]:
    """The fewest inputs and outputs of an operator."""
    try:
        schema = defs.get_schema(operator, version, domain)
    except defs.SchemaError:
        return FUSED.get((domain, operator), 0), 1
    return schema.min_input, max(schema.min_output, 1)


FUSED: dict[tuple[str, str], int] = {
    **{("com.microsoft", name): 1 for name in ("Gelu", "FastGelu", "QuickGelu", "MultiHeadAttention")},
    **{("com.microsoft", name): 2 for name in ("BiasGelu", "FusedConv", "FusedGemm", "FusedMatMul", "BiasSoftmax")},
    ("com.microsoft", "Attention"): 2,
    ("com.microsoft", "SkipLayerNormalization"): 3,
}
"""The fewest inputs of operators that onnx has no schema of."""
