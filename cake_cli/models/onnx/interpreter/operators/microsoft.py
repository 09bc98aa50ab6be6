"""Fused `com.microsoft` operators that onnxruntime's optimizer leaves behind, as the plain ones they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator
from cake_cli.models.onnx.interpreter.operators.convolution import convolution
from cake_cli.models.onnx.interpreter.operators.linear import gemm
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table("com.microsoft")

MODERN = 13
"""The opset of the main operators that the fused ones stand for."""


def _activated(node: Node, x: Tensor) -> Tensor:
    kind = node.text("activation", "")
    parameters: list[float] = list(node.get("activation_params", ()))
    if kind == "LeakyRelu":
        slope = parameters[0] if parameters else node.number("activation_alpha", 0.01)
        return F.leaky_relu(x, slope)
    if kind == "Clip" and len(parameters) == 2:
        return x.clamp(*parameters)
    if kind == "HardSigmoid" and len(parameters) == 2:
        return (parameters[0] * x + parameters[1]).clamp(0, 1)
    plain: dict[str, Callable[[Tensor], Tensor]] = {"Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh}
    if kind and kind not in plain:
        raise UnsupportedOperator(f"{node.title} with activation {kind}")
    return plain[kind](x) if kind else x


@TABLE.add("FusedConv")
def _fused_convolution(
    node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    y = convolution(node, x, weight, bias)
    return _activated(node, y if added is None else y + added)


@TABLE.add("FusedGemm")
def _fused_gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    return _activated(node, gemm(dataclasses.replace(node, opset=MODERN), a, b, c))


@TABLE.add("FusedMatMul")
def _fused_matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    if node.flag("transBatchA") or node.flag("transBatchB"):
        raise UnsupportedOperator(f"{node.title} with transposed batches")
    a = a.mT if node.flag("transA") else a
    b = b.mT if node.flag("transB") else b
    return node.number("alpha", 1.0) * (a @ b)


@TABLE.add("Gelu")
def _gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x)


@TABLE.add("BiasGelu")
def _bias_gelu(node: Node, x: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(x + bias)


@TABLE.add("FastGelu")
def _fast_gelu(node: Node, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@TABLE.add("QuickGelu")
def _quick_gelu(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.number("alpha", 1.702) * x)


@TABLE.add("SkipLayerNormalization")
def _skip_layer_normalization(
    node: Node,
    x: Tensor,
    skip: Tensor,
    scale: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, None, None, Tensor]:
    total = x + skip if bias is None else x + skip + bias
    y = F.layer_norm(total, total.shape[-1:], scale, beta, node.number("epsilon", 1e-12))
    return y, None, None, total


@TABLE.add("SkipSimplifiedLayerNormalization")
def _skip_rms_normalization(
    node: Node, x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, None, None, Tensor]:
    total = x + skip if bias is None else x + skip + bias
    size = total.square().mean(-1, keepdim=True)
    return total * torch.rsqrt(size + node.number("epsilon", 1e-12)) * scale, None, None, total


@TABLE.add("BiasAdd")
def _bias_add(node: Node, x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    return x + bias + skip


@TABLE.add("BiasSoftmax")
def _bias_softmax(node: Node, x: Tensor, bias: Tensor) -> Tensor:
    if node.integer("axis", 1) % x.dim() != x.dim() - 1:
        raise UnsupportedOperator(f"{node.title} over several axes")
    return torch.softmax(x + bias, -1)


@TABLE.add("MatMulNBits")
def _matmul_of_stored_bits(
    node: Node,
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    order: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Rows (..., K) with weights (N, K) that are stored in a few bits: `packed` is (N, blocks, bytes of a block)."""
    bits, inside, outside = node.integer("bits", 4), node.integer("K"), node.integer("N")
    if order is not None or bits not in (2, 4, 8):
        raise UnsupportedOperator(f"{node.title} of {bits} bits" + (" in another order" if order is not None else ""))
    values = _unpacked(packed.reshape(outside, packed.shape[1], -1), bits).to(x.dtype)  # (N, blocks, block)
    blocks = values.shape[1]
    middle: Tensor | float = float(1 << (bits - 1))
    if zeros is not None:
        known = zeros if zeros.is_floating_point() else _unpacked(zeros.reshape(outside, -1), bits)
        middle = known.reshape(outside, -1)[:, :blocks, None].to(x.dtype)
    weights = (values - middle) * scales.reshape(outside, blocks, 1).to(x.dtype)
    y = x @ weights.flatten(1)[:, :inside].mT
    return y if bias is None else y + bias


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Bytes to the numbers in them, the lowest bits first: (..., B) to (..., 8 B / bits)."""
    shifts = torch.arange(0, 8, bits, device=packed.device, dtype=torch.int32)
    numbers = (packed.to(torch.int32)[..., None] >> shifts) & ((1 << bits) - 1)
    return numbers.flatten(-2)
