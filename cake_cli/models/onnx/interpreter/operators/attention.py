"""Attention of the main operator set (opset 23 and later), and rotary position embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table()


@TABLE.add("Attention")
def _attention(
    node: Node,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_k: Tensor | None = None,
    past_v: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Scaled dot-product attention, (N, H, L, D) or (N, L, H D); written out, so that it has every derivative."""
    flat = q.dim() == 3
    if flat:
        q = _heads(q, node.integer("q_num_heads"))
        k, v = (_heads(part, node.integer("kv_num_heads")) for part in (k, v))
    if past_k is not None and past_v is not None:
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
    present_k, present_v = k, v
    if q.shape[1] != k.shape[1]:  # grouped queries
        k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in (k, v))
    scale = math.sqrt(node.number("scale", 1 / math.sqrt(q.shape[-1])))
    scores = (q * scale) @ (k * scale).mT  # (N, H, L, S)
    softcap = node.number("softcap")
    capped = softcap * torch.tanh(scores / softcap) if softcap else scores
    bias = _bias(node, scores, mask, past_k, lengths)
    masked = capped if bias is None else capped + bias
    weights = torch.softmax(masked, -1)
    if bias is not None:  # a query that may look at nothing sees zeros
        weights = torch.where(torch.isneginf(masked).all(-1, keepdim=True), torch.zeros_like(weights), weights)
    y = weights @ v  # (N, H, L, Dv)
    y = y.transpose(1, 2).flatten(2) if flat else y
    shown = (scores, capped, masked, weights)[node.integer("qk_matmul_output_mode")]
    return y, present_k, present_v, shown


def _heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, H D) to (N, H, L, D)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _bias(
    node: Node, scores: Tensor, mask: Tensor | None, past: Tensor | None, lengths: Tensor | None
) -> Tensor | None:
    """What is added to the scores: the given mask, causality, a window, and the padding after each row's length."""
    rows, columns = scores.shape[-2:]
    bias: Tensor | None = None
    if mask is not None:
        bias = _forbidden(~mask, scores) if mask.dtype is torch.bool else mask
        bias = F.pad(bias, (0, columns - bias.shape[-1]), value=-math.inf)
    key = torch.arange(columns, device=scores.device)
    query = torch.arange(rows, device=scores.device)[:, None]
    if past is not None:
        query = query + past.shape[2]
    elif lengths is not None:
        query = query + (lengths - rows).reshape(-1, 1, 1, 1)
    left, right = node.integer("left_window_size", -1), node.integer("right_window_size", -1)
    limits = []
    if node.flag("is_causal"):
        limits.append(key > query)
    if left >= 0:
        limits.append(query - key > left)
    if right >= 0:
        limits.append(key - query > right)
    if lengths is not None:
        limits.append(key >= lengths.reshape(-1, 1, 1, 1))
    for limit in limits:
        added = _forbidden(limit, scores)
        bias = added if bias is None else bias + added
    return bias


def _forbidden(where: Tensor, like: Tensor) -> Tensor:
    """Minus infinity where it is forbidden to look, zero elsewhere."""
    return torch.zeros(where.shape, dtype=like.dtype, device=like.device).masked_fill(where, -math.inf)


@TABLE.add("RotaryEmbedding")
def rotary_embedding(node: Node, x: Tensor, cosine: Tensor, sine: Tensor, places: Tensor | None = None) -> Tensor:
    """Turns pairs of features by angles that grow with the place: (N, H, L, D) or (N, L, H D)."""
    flat = x.dim() == 3
    if flat:
        if not node.integer("num_heads"):
            raise UnsupportedOperator(f"{node.title} without num_heads")
        x = _heads(x, node.integer("num_heads"))
    width = node.integer("rotary_embedding_dim") or x.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    if places is not None:
        cosine, sine = cosine[places], sine[places]  # (N, L, D/2)
    cosine, sine = (part[..., : width // 2].unsqueeze(1) for part in (cosine, sine))
    if node.flag("interleaved"):
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned.chunk(2, -1)
    real, imaginary = cosine * first - sine * second, sine * first + cosine * second
    if node.flag("interleaved"):
        turned = torch.stack([real, imaginary], -1).flatten(-2)
    else:
        turned = torch.cat([real, imaginary], -1)
    y = torch.cat([turned, rest], -1)
    return y.transpose(1, 2).flatten(2) if flat else y
