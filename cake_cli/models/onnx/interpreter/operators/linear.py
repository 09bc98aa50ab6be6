"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from cake_cli.models.onnx.interpreter.node import Node
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table()


@TABLE.add("MatMul")
def _matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@TABLE.add("Gemm")
def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Alpha A B + beta C, for A (M, K), B (K, N), either transposed, and C that broadcasts to (M, N)."""
    a = a.flatten(1) if a.dim() > 2 and node.opset < 7 else a
    a = a.mT if node.flag("transA") else a
    b = b.mT if node.flag("transB") else b
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    if c is None:
        product = a @ b
        return product if alpha == 1 else alpha * product
    if alpha == 1 and beta == 1 and c.dim() <= 1:
        return torch.addmm(c, a, b)
    return alpha * (a @ b) + beta * c


@TABLE.add("Einsum")
def _einsum(node: Node, *operands: Tensor) -> Tensor:
    return torch.einsum(node.text("equation").replace(" ", ""), *operands)
