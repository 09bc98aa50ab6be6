"""ONNX files without a gradient, made by hand: int8, trees, labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, numpy_helper

from tests.models.onnx.files import FLOAT, INT64, draw, model, node, port, save

OPSETS = {"": 17, "ai.onnx.ml": 3}


def int8(folder: Path, *, dynamic: bool = False, softmax: bool = False, name: str = "int8.onnx") -> Path:
    """x (N, 1, 4, 4) through two layers, of which the first is computed in int8, to y (N, 3).

    Dynamically quantised, the scale of a row depends on the rest of its batch.
    """
    first, last = draw(16, 12) / 4, draw(12, 3, seed=1)
    scale = np.float32(np.abs(first).max() / 127)
    weights = {
        "w": np.rint(first / scale).astype(np.int8),
        "ws": np.float32(scale),
        "wz": np.int8(0),
        "last": last,
        "xs": np.float32(8 / 255),
        "xz": np.uint8(128),
    }
    end = "z" if softmax else "y"
    quantise = (
        [node("DynamicQuantizeLinear", "flat", "q qs qz")]
        if dynamic
        else [node("QuantizeLinear", "flat xs xz", "q"), node("Identity", "xs", "qs"), node("Identity", "xz", "qz")]
    )
    nodes = [
        node("Flatten", "x", "flat"),
        *quantise,
        node("MatMulInteger", "q w qz wz", "sum"),
        node("Cast", "sum", "wide", to=FLOAT),
        node("Mul", "qs ws", "both"),
        node("Mul", "wide both", "hidden"),
        node("Tanh", "hidden", "active"),
        node("MatMul", "active last", end),
        *([node("Softmax", "z", "y", axis=1)] if softmax else []),
    ]
    proto = model(nodes, weights, inputs=[port("x", ["n", 1, 4, 4])], outputs=[port("y", ["n", 3])], opsets=OPSETS)
    return save(proto, folder, name)


def trees(
    folder: Path,
    *,
    trees: int = 40,
    labels: tuple[int, ...] = (0, 1, 2),
    post_transform: str = "NONE",
    name: str = "trees.onnx",
    around: float = 0.0,
) -> Path:
    """x (N, 4) to a label (N,) and probabilities (N, 3): the mean of stumps, as scikit-learn's forests are exported.

    They split at values around `around`.
    """
    rng = np.random.default_rng(0)
    columns: dict[str, list] = {key: [] for key in ("id", "tree", "feature", "value", "mode", "true", "false")}
    leaves: dict[str, list] = {key: [] for key in ("tree", "node", "class", "weight")}
    for tree in range(trees):
        feature, threshold = int(rng.integers(4)), around + float(rng.normal())
        for number, mode in enumerate(["BRANCH_LEQ", "LEAF", "LEAF"]):
            row = (number, tree, feature, threshold if not number else 0.0, mode, 1 if not number else 0, 0)
            row = (*row[:6], 2 if not number else 0)
            for key, value in zip(columns, row, strict=True):
                columns[key].append(value)
        for leaf in (1, 2):
            for index, weight in enumerate(rng.dirichlet(np.ones(3)) / trees):
                for key, value in zip(leaves, (tree, leaf, index, float(weight)), strict=True):
                    leaves[key].append(value)
    forest = node(
        "TreeEnsembleClassifier",
        "x",
        "label y",
        "ai.onnx.ml",
        nodes_nodeids=columns["id"],
        nodes_treeids=columns["tree"],
        nodes_featureids=columns["feature"],
        nodes_values=columns["value"],
        nodes_modes=columns["mode"],
        nodes_truenodeids=columns["true"],
        nodes_falsenodeids=columns["false"],
        class_treeids=leaves["tree"],
        class_nodeids=leaves["node"],
        class_ids=leaves["class"],
        class_weights=leaves["weight"],
        classlabels_int64s=list(labels),
        post_transform=post_transform,
    )
    outputs = [port("label", ["n"], INT64), port("y", ["n", 3])]
    return save(model([forest], inputs=[port("x", ["n", 4])], outputs=outputs, opsets=OPSETS), folder, name)


def labels_only(folder: Path, name: str = "labels.onnx") -> Path:
    """x (N, 4) to the number of its class, (N,)."""
    nodes = [node("MatMul", "x w", "z"), node("ArgMax", "z", "y", axis=1, keepdims=0)]
    outputs = [port("y", ["n"], INT64)]
    return save(model(nodes, {"w": draw(4, 3)}, inputs=[port("x", ["n", 4])], outputs=outputs), folder, name)


def with_bytes(file: Path) -> Path:
    """The same file, its input bytes."""
    proto = ModelProto.FromString(file.read_bytes())
    proto.graph.input[0].type.tensor_type.elem_type = 2
    scale = numpy_helper.from_array(np.float32(1 / 64), "step")
    proto.graph.initializer.append(scale)
    for one in proto.graph.node:
        one.input[:] = ["scaled" if name == "x" else name for name in one.input]
    before = [node("Cast", "x", "floats", to=FLOAT), node("Mul", "floats step", "scaled")]
    nodes = [*before, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    file.write_bytes(proto.SerializeToString())
    return file
