"""The `ai.onnx.ml` operators of scikit-learn's exports that are differentiable."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table("ai.onnx.ml")


def _numbers(node: Node, key: str, x: Tensor) -> Tensor:
    return torch.tensor(list(node.get(key, ())), dtype=x.dtype, device=x.device)


def _floats(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.float()


@TABLE.add("Scaler")
def _scaler(node: Node, x: Tensor) -> Tensor:
    x = _floats(x)
    return (x - _numbers(node, "offset", x)) * _numbers(node, "scale", x)


@TABLE.add("Normalizer")
def _normalizer(node: Node, x: Tensor) -> Tensor:
    x = _floats(x)
    norm = node.text("norm", "MAX")
    if norm == "L2":
        size = x.square().sum(-1, keepdim=True).sqrt()
    else:
        size = x.amax(-1, keepdim=True) if norm == "MAX" else x.abs().sum(-1, keepdim=True)
    return x / torch.where(size == 0, torch.ones_like(size), size)


@TABLE.add("LinearRegressor")
def _linear_regressor(node: Node, x: Tensor) -> Tensor:
    x = _floats(x)
    targets = node.integer("targets", 1)
    weights = _numbers(node, "coefficients", x).reshape(targets, -1)
    scores = x @ weights.mT
    bias = _numbers(node, "intercepts", x)
    return _transformed(node, scores + bias if bias.numel() else scores)


@TABLE.add("LinearClassifier")
def _linear_classifier(node: Node, x: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (N,), as places in the list of classes, and scores (N, K)."""
    x = _floats(x).reshape(x.shape[0], -1)
    classes = len(node.get("classlabels_ints", ())) or len(node.get("classlabels_strings", ()))
    weights = _numbers(node, "coefficients", x).reshape(-1, x.shape[1])
    scores = x @ weights.mT
    bias = _numbers(node, "intercepts", x)
    scores = scores + bias if bias.numel() else scores
    transform = node.text("post_transform", "NONE")
    if scores.shape[1] == 1 and classes == 2:  # one row of weights decides between two classes
        if transform == "LOGISTIC":
            second = torch.sigmoid(scores)
            return (scores[:, 0] > 0).long(), torch.cat([1 - second, second], 1)
        return (scores[:, 0] > 0).long(), torch.cat([1 - scores, scores], 1)  # as onnxruntime has it, softmax or not
    return scores.argmax(1), _transformed(node, scores)


def _transformed(node: Node, scores: Tensor) -> Tensor:
    transform = node.text("post_transform", "NONE")
    if transform == "NONE":
        return scores
    if transform == "SOFTMAX":
        return torch.softmax(scores, -1)
    if transform == "LOGISTIC":
        return torch.sigmoid(scores)
    raise UnsupportedOperator(f"{node.title} with post_transform {transform}")


@TABLE.add("Imputer")
def _imputer(node: Node, x: Tensor) -> Tensor:
    values = _numbers(node, "imputed_value_floats", x)
    missing = node.number("replaced_value_float")
    gone = torch.isnan(x) if math.isnan(missing) else x == missing
    return torch.where(gone, values, x)


@TABLE.add("FeatureVectorizer")
def _feature_vectorizer(node: Node, *parts: Tensor) -> Tensor:
    return torch.cat([_floats(part).reshape(part.shape[0], -1) for part in parts], 1)


@TABLE.add("ArrayFeatureExtractor")
def _array_feature_extractor(node: Node, x: Tensor, places: Tensor) -> Tensor:
    picked = x.index_select(-1, places.reshape(-1))
    return picked.reshape(1, -1) if x.dim() == 1 else picked


@TABLE.add("Binarizer")
def _binarizer(node: Node, x: Tensor) -> Tensor:
    return (x > node.number("threshold")).to(x.dtype)
