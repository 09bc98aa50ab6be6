"""Normalisations over batches, layers, groups, instances and neighbourhoods."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.models.onnx.interpreter.node import LEAST_EPSILON, Node, UnsupportedOperator
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table()


@TABLE.add("BatchNormalization")
def _batch_normalization(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, ...]:
    epsilon = node.number("epsilon", 1e-5)
    if node.flag("training_mode") or (node.opset < 7 and not node.flag("is_test", node.opset >= 6)):
        raise UnsupportedOperator(f"{node.title} in training mode")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, max(epsilon, LEAST_EPSILON))


@TABLE.add("InstanceNormalization")
def _instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    space = list(range(2, x.dim()))
    return _channels(_standardised(x, space, node.number("epsilon", 1e-5)), scale, bias)


@TABLE.add("GroupNormalization")
def _group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, channels = node.integer("num_groups"), x.shape[1]
    if scale.numel() == groups != channels:  # opset 18 scales whole groups
        scale, bias = (weight.repeat_interleave(channels // groups) for weight in (scale, bias))
    return F.group_norm(x, groups, scale, bias, node.number("epsilon", 1e-5))


@TABLE.add("LayerNormalization")
def _layer_normalization(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    axis = node.integer("axis", -1) % x.dim()
    epsilon = node.number("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    if len(node.outputs) == 1 and list(scale.shape) == shape and (bias is None or list(bias.shape) == shape):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    axes = list(range(axis, x.dim()))
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + epsilon)
    y = (x - mean) * inverse * scale
    return (y if bias is None else y + bias), mean, inverse


@TABLE.add("RMSNormalization")
def _rms_normalization(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    axes = list(range(node.integer("axis", -1) % x.dim(), x.dim()))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + node.number("epsilon", 1e-5)) * scale


@TABLE.add("LRN")
def _local_response_normalization(node: Node, x: Tensor) -> Tensor:
    size = node.integer("size")
    before = (size - 1) // 2
    squares = x.square()
    padded = F.pad(squares, [0, 0] * (x.dim() - 2) + [before, size - 1 - before])
    total = sum((padded.narrow(1, shift, x.shape[1]) for shift in range(size)), torch.zeros_like(x))
    scale = node.number("bias", 1.0) + node.number("alpha", 1e-4) / size * total
    return x / scale.pow(node.number("beta", 0.75))


@TABLE.add("LpNormalization")
def _lp_normalization(node: Node, x: Tensor) -> Tensor:
    axis = node.integer("axis", -1)
    norm = torch.linalg.vector_norm(x, node.integer("p", 2), axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))


@TABLE.add("MeanVarianceNormalization")
def _mean_variance_normalization(node: Node, x: Tensor) -> Tensor:
    axes = node.integers("axes") or [0, 2, 3]
    mean = x.mean(axes, keepdim=True)
    variance = (x - mean).square().mean(axes, keepdim=True)
    return (x - mean) / (variance.clamp_min(LEAST_EPSILON).sqrt() + 1e-9)  # the root of 0 has no slope


def _standardised(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    mean = x.mean(axes, keepdim=True)
    variance = (x - mean).square().mean(axes, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + epsilon)


def _channels(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    shape = (1, -1, *[1] * (x.dim() - 2))
    return x * scale.reshape(shape) + bias.reshape(shape)
