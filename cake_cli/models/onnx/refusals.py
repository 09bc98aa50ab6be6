"""Graphs that compute scores and yet have no gradient with respect to their input, and why."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, NodeProto, TensorProto

from cake_cli.errors import ModelFileError, NoGradient
from cake_cli.models.onnx.preparation.order import reads
from cake_cli.models.onnx.preparation.spelling import every_node

QUANTISED = frozenset(
    {
        "DynamicQuantizeLinear",
        "ConvInteger",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QLinearAdd",
        "QLinearMul",
        "QLinearGlobalAveragePool",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearLeakyRelu",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QGemm",
        "QAttention",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "QuantizeLinear",
    }
)
TREES = frozenset({"TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble"})
TRAINING = frozenset(
    {"SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss", "Adam", "Adagrad", "Momentum", "Gradient"}
)

FLAT = frozenset(
    {"ArgMax", "ArgMin", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor", "Not"}
    | {"IsNaN", "IsInf", "NonZero", "Shape", "Size", "OneHot", "Hardmax", "Unique", "NonMaxSuppression", "EyeLike"}
    | {"Binarizer", "LabelEncoder", "Sign", "Floor", "Ceil", "Round"}
)
"""Operators whose results do not move when their input moves a little."""
INTEGERS = frozenset(
    {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT8}
)


REEXPORT: dict[str, str] = {
    "pytorch": "torch.onnx.export(model, (example,), 'model.onnx', opset_version=18)",
    "tf2onnx": "python -m tf2onnx.convert --saved-model FOLDER --output model.onnx --opset 18",
    "skl2onnx": "skl2onnx.to_onnx(model, example, options={'zipmap': False})",
}
"""How the known producers write plain files."""


def reexport(model: ModelProto) -> str:
    """How to write the file again with plain operators, in terms of what wrote it."""
    command = REEXPORT.get(model.producer_name.lower())
    return f"export it again with plain operators: {command or 'of opset 18, from the framework it was made in'}"


def node_title(node: NodeProto, model: ModelProto) -> str:
    """How messages name a node: operator, opset, name."""
    opset = next((entry.version for entry in model.opset_import if entry.domain == node.domain), 0)
    domain = f"{node.domain}." if node.domain else ""
    return f"{domain}{node.op_type} (opset {opset}, node {node.name!r})"


def refuse_without_gradient(model: ModelProto) -> None:
    """Refuses quantised graphs, tree ensembles and training graphs.

    Args:
        model: cut down to the chosen output.

    Raises:
        NoGradient: with the operators, and which file would do instead.
        ModelFileError: for graphs that train, or were made for one processor.
    """
    nodes = list(every_node(model))
    quantised = [node for node in nodes if node.op_type in QUANTISED]
    if quantised:
        kinds = ", ".join(sorted({node.op_type for node in quantised}))
        raise NoGradient(
            f"the graph is quantised to int8 ({len(quantised)} nodes: {kinds}): no gradient exists",
            "give the float32 model that it was quantised from",
        )
    ours = [node for node in nodes if node.domain == "com.microsoft.nchwc"]
    if ours:
        raise ModelFileError(
            f"the graph was rewritten by onnxruntime for the processor that it ran on ({len(ours)} nodes of "
            f"{ours[0].domain}, such as {ours[0].op_type}, node {ours[0].name!r})",
            "give the model from before, or save it with graph_optimization_level = ORT_ENABLE_EXTENDED",
        )
    trees = [node for node in nodes if node.op_type in TREES]
    if trees:
        raise NoGradient(
            f"the model is a tree ensemble ({trees[0].op_type}, node {trees[0].name!r}): no gradient exists",
            "give a model that is smooth in its input, such as a neural network or a linear classifier",
        )
    losses = [node for node in nodes if node.op_type in TRAINING]
    if losses:
        raise ModelFileError(
            f"this is a training graph: it computes {node_title(losses[0], model)}",
            "export the inference model, which takes one input and returns scores",
        )


def refuse_cut_gradient(model: ModelProto) -> None:
    """Refuses a graph in which no differentiable way leads from the input to the output.

    Args:
        model: sorted, with one input and one output.

    Raises:
        NoGradient: naming the node where the way ends.
    """
    moving = {value.name for value in model.graph.input}
    ends: list[NodeProto] = []
    for node in model.graph.node:
        if not moving.intersection(_data_inputs(node)) and not moving.intersection(reads(node) - set(node.input)):
            continue
        if node.op_type in FLAT or _casts_to_integers(node):
            ends.append(node)
        else:
            moving.update(name for name in node.output if name)
    if model.graph.output[0].name not in moving:
        where = f"it ends at {node_title(ends[-1], model)}" if ends else "the output does not depend on the input"
        raise NoGradient(
            f"no gradient leads from the output to the input: {where}",
            "export the model so that it returns its scores, before labels are taken or values are rounded",
        )


def _data_inputs(node: NodeProto) -> Sequence[str]:
    """The inputs of a node that its result is smooth in (not indices and shapes)."""
    first = {"Gather", "GatherElements", "GatherND", "Reshape", "Expand", "Tile", "Slice", "Unsqueeze", "Squeeze"}
    return list(node.input[:1]) if node.op_type in first else list(node.input)


def _casts_to_integers(node: NodeProto) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i in INTEGERS for a in node.attribute)
