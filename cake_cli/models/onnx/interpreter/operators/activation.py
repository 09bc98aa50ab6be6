"""Pointwise nonlinearities, and softmax with its relatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table()


@TABLE.add("Relu")
def _relu(node: Node, x: Tensor) -> Tensor:
    return torch.relu(x)


@TABLE.add("LeakyRelu")
def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.number("alpha", 0.01))


@TABLE.add("PRelu")
def _prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    if node.opset < 7 and slope.dim() == 1 and slope.numel() > 1:  # one slope a channel, before broadcasting rules
        slope = slope.reshape(-1, *[1] * (x.dim() - 2))
    if slope.numel() == 1 or (slope.dim() == x.dim() - 1 and list(slope.shape) == [x.shape[1], *[1] * (x.dim() - 2)]):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


@TABLE.add("Elu")
def _elu(node: Node, x: Tensor) -> Tensor:
    return F.elu(x, node.number("alpha", 1.0))


@TABLE.add("Selu")
def _selu(node: Node, x: Tensor) -> Tensor:
    alpha, gamma = node.number("alpha", 1.67326319217681884765625), node.number("gamma", 1.05070102214813232421875)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


@TABLE.add("Celu")
def _celu(node: Node, x: Tensor) -> Tensor:
    return F.celu(x, node.number("alpha", 1.0))


@TABLE.add("Gelu")
def _gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.text("approximate", "none"))


@TABLE.add("Sigmoid")
def _sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@TABLE.add("HardSigmoid")
def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return (node.number("alpha", 0.2) * x + node.number("beta", 0.5)).clamp(0, 1)


@TABLE.add("HardSwish")
def _hard_swish(node: Node, x: Tensor) -> Tensor:
    return F.hardswish(x)


@TABLE.add("Swish")
def _swish(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.number("alpha", 1.0) * x)


@TABLE.add("SwiGLU")
def _swiglu(node: Node, gate: Tensor, x: Tensor) -> Tensor:
    return gate * torch.sigmoid(node.number("alpha", 1.0) * gate) * x


@TABLE.add("Mish")
def _mish(node: Node, x: Tensor) -> Tensor:
    return F.mish(x)


@TABLE.add("Softplus")
def _softplus(node: Node, x: Tensor) -> Tensor:
    return F.softplus(x)


@TABLE.add("Softsign")
def _softsign(node: Node, x: Tensor) -> Tensor:
    return F.softsign(x)


@TABLE.add("Tanh")
def _tanh(node: Node, x: Tensor) -> Tensor:
    return torch.tanh(x)


@TABLE.add("ThresholdedRelu")
def _thresholded_relu(node: Node, x: Tensor) -> Tensor:
    return torch.where(x > node.number("alpha", 1.0), x, torch.zeros_like(x))


@TABLE.add("Shrink")
def _shrink(node: Node, x: Tensor) -> Tensor:
    bias, threshold = node.number("bias"), node.number("lambd", 0.5)
    inside = torch.where(x > threshold, x - bias, torch.zeros_like(x))
    return torch.where(x < -threshold, x + bias, inside).to(x.dtype)


def _over_classes(node: Node, x: Tensor) -> tuple[Tensor, int]:
    """The operand of a softmax and its axis: before opset 13, everything from `axis` on is one axis."""
    if node.opset >= 13:
        return x, node.integer("axis", -1)
    axis = node.integer("axis", 1) % max(x.dim(), 1)
    return (x, axis) if axis == x.dim() - 1 else (x.flatten(axis), axis)


@TABLE.add("Softmax")
def _softmax(node: Node, x: Tensor) -> Tensor:
    flat, axis = _over_classes(node, x)
    return torch.softmax(flat, axis).reshape(x.shape)


@TABLE.add("LogSoftmax")
def _log_softmax(node: Node, x: Tensor) -> Tensor:
    flat, axis = _over_classes(node, x)
    return torch.log_softmax(flat, axis).reshape(x.shape)


@TABLE.add("Hardmax")
def _hardmax(node: Node, x: Tensor) -> Tensor:
    flat, axis = _over_classes(node, x)
    first = torch.zeros_like(flat).scatter(axis, flat.argmax(axis, keepdim=True), 1.0)
    return first.reshape(x.shape)


@TABLE.add("Dropout")
def _dropout(
    node: Node, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    if training is not None and bool(training.any()) and (ratio is None or bool((ratio > 0).any())):
        raise UnsupportedOperator(f"{node.title} in training mode")
    return x, torch.ones_like(x, dtype=torch.bool)
