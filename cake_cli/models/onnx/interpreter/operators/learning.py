"""The `ai.onnx.ml` operators of scikit-learn's exports that are differentiable."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table("ai.onnx.ml")

ZERO = 1e-7
"""What SOFTMAX_ZERO leaves at zero."""


def floats(x: Tensor) -> Tensor:
    """Integers as float32."""
    return x if x.is_floating_point() else x.float()


@TABLE.add("Scaler", weights=("offset", "scale"))
def _scaler(node: Node, x: Tensor, offset: Tensor | None, scale: Tensor | None) -> Tensor:
    x = floats(x)
    x = x if offset is None else x - offset
    return x if scale is None else x * scale


@TABLE.add("Normalizer")
def _normalizer(node: Node, x: Tensor) -> Tensor:
    x = floats(x)
    norm = node.text("norm", "MAX")
    if norm == "L2":
        size = x.square().sum(-1, keepdim=True).sqrt()
    else:
        size = x.amax(-1, keepdim=True) if norm == "MAX" else x.abs().sum(-1, keepdim=True)
    return x / torch.where(size == 0, torch.ones_like(size), size)


@TABLE.add("LinearRegressor", weights=("coefficients", "intercepts"))
def _linear_regressor(node: Node, x: Tensor, coefficients: Tensor, intercepts: Tensor | None) -> Tensor:
    scores = floats(x) @ coefficients.reshape(node.integer("targets", 1), -1).mT
    return transformed(node, scores if intercepts is None else scores + intercepts)


@TABLE.add("LinearClassifier", weights=("coefficients", "intercepts"))
def _linear_classifier(node: Node, x: Tensor, coefficients: Tensor, intercepts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Labels (N,), as places in the list of classes, and scores (N, K)."""
    x = floats(x).reshape(x.shape[0], -1)
    scores = x @ coefficients.reshape(-1, x.shape[1]).mT
    scores = scores if intercepts is None else scores + intercepts
    if scores.shape[1] == 1 and class_count(node) == 2:  # one row of weights decides between two classes
        label = (scores[:, 0] > 0).long()
        if node.text("post_transform", "NONE") == "LOGISTIC":
            second = torch.sigmoid(scores)
            return label, torch.cat([1 - second, second], 1)
        return label, torch.cat([1 - scores, scores], 1)  # as onnxruntime has it, softmax or not
    return scores.argmax(1), transformed(node, scores)


def class_count(node: Node) -> int:
    """How many classes the labels of a node are of."""
    return len(node.get("classlabels_ints", ())) or len(node.get("classlabels_strings", ()))


def transformed(node: Node, scores: Tensor) -> Tensor:
    """Scores (N, K) after the node's `post_transform`."""
    transform = node.text("post_transform", "NONE")
    if transform == "NONE":
        return scores
    if transform == "SOFTMAX":
        return torch.softmax(scores, -1)
    if transform == "LOGISTIC":
        return torch.sigmoid(scores)
    if transform == "PROBIT":
        return math.sqrt(2) * torch.erfinv(2 * scores - 1)
    if transform == "SOFTMAX_ZERO":
        top = scores.amax(-1, keepdim=True)
        shares = torch.where(scores.abs() > ZERO, torch.exp(scores - top), scores * torch.exp(-top))
        return shares / shares.sum(-1, keepdim=True)
    raise UnsupportedOperator(f"{node.title} with post_transform {transform}")


@TABLE.add("Imputer", weights=("imputed_value_floats",))
def _imputer(node: Node, x: Tensor, values: Tensor | None) -> Tensor:
    if values is None:
        raise UnsupportedOperator(f"{node.title} without float values")
    missing = node.number("replaced_value_float")
    gone = torch.isnan(x) if math.isnan(missing) else x == missing
    return torch.where(gone, values, x)


@TABLE.add("FeatureVectorizer")
def _feature_vectorizer(node: Node, *parts: Tensor) -> Tensor:
    return torch.cat([floats(part).reshape(part.shape[0], -1) for part in parts], 1)


@TABLE.add("ArrayFeatureExtractor")
def _array_feature_extractor(node: Node, x: Tensor, places: Tensor) -> Tensor:
    picked = x.index_select(-1, places.reshape(-1))
    return picked.reshape(1, -1) if x.dim() == 1 else picked


@TABLE.add("Binarizer")
def _binarizer(node: Node, x: Tensor) -> Tensor:
    return (x > node.number("threshold")).to(x.dtype)
