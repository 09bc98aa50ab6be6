"""Attention as onnxruntime's optimizer fuses it: `com.microsoft` Attention, MultiHeadAttention, RotaryEmbedding."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import torch
from torch import Tensor

from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator
from cake_cli.models.onnx.interpreter.operators.attention import rotary_embedding
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table("com.microsoft")


@TABLE.add("Attention")
def _attention(
    node: Node,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    added: Tensor | None = None,
    *rest: Tensor | None,
) -> tuple[Tensor, ...]:
    """Self-attention with its projections: (N, L, D) to (N, L, V), and the keys and values (2, N, H, S, D / H)."""
    if any(part is not None for part in rest) or node.flag("do_rotary"):
        raise UnsupportedOperator(f"{node.title} with a shared past, or rotary positions inside")
    sizes = node.integers("qkv_hidden_sizes") or [weight.shape[1] // 3] * 3
    projected = x @ weight if bias is None else x @ weight + bias
    q, k, v = (_heads(node, part) for part in torch.split(projected, sizes, -1))
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    y = _attend(node, q, k, v, mask, added, 0 if past is None else past.shape[3])
    return (y, torch.stack([k, v])) if len(node.outputs) > 1 else (y,)


@TABLE.add("MultiHeadAttention")
def _multi_head_attention(
    node: Node,
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    added: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *rest: Tensor | None,
) -> tuple[Tensor, ...]:
    """Attention of projected queries, keys and values, packed or not: (N, L, V), keys and values (N, H, S, D / H)."""
    if any(part is not None for part in rest):
        raise UnsupportedOperator(f"{node.title} with a shared past")
    if query.dim() == 5:  # (N, L, H, 3, D / H)
        query, key, value = (part.flatten(2) for part in query.unbind(3))
    elif key is not None and key.dim() == 5:  # (N, S, H, 2, D / H)
        key, value = (part.flatten(2) for part in key.unbind(3))
    if key is None or value is None:
        raise UnsupportedOperator(f"{node.title} without keys")
    if bias is not None:
        ends = (0, query.shape[-1], 2 * query.shape[-1], bias.shape[0])
        biases = [bias[start:end] for start, end in pairwise(ends)]
        query = query + biases[0]
        if key.dim() == 3:  # projected elsewhere, where (N, H, S, D / H)
            key, value = key + biases[1], value + biases[2]
    q = _heads(node, query)
    k, v = (_heads(node, part) if part.dim() == 3 else part for part in (key, value))
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    return _attend(node, q, k, v, mask, added, 0 if past_key is None else past_key.shape[2]), k, v


def _heads(node: Node, x: Tensor) -> Tensor:
    """(N, L, D) to (N, H, L, D / H)."""
    return x.reshape(*x.shape[:2], node.integer("num_heads"), -1).transpose(1, 2)


def _attend(
    node: Node, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, added: Tensor | None, before: int
) -> Tensor:
    """Softmax of masked products, times the values: (N, H, L, D) and (N, H, S, D) to (N, L, H D).

    The first query stands behind as many keys as there were `before`.
    """
    scale = node.number("scale") or 1 / math.sqrt(q.shape[-1])
    scores = scale * (q @ k.mT)  # (N, H, L, S)
    if added is not None:
        scores = scores + added
    if mask is not None:
        hidden = ~_visible(node, mask, scores)
        scores = scores + hidden.to(scores.dtype) * node.number("mask_filter_value", -10000.0)
    if node.flag("unidirectional"):
        rows, columns = scores.shape[-2:]
        if columns > rows + before:
            raise UnsupportedOperator(f"{node.title} that is unidirectional over the keys of another sequence")
        later = torch.ones(rows, columns, dtype=torch.bool, device=scores.device).triu(before + 1)
        scores = scores.masked_fill(later, torch.finfo(scores.dtype).min)
    return (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)


def _visible(node: Node, mask: Tensor, scores: Tensor) -> Tensor:
    """Which keys each query may see, to go with (N, H, L, S): of ends (N,), ends and starts (2 N,), or a mask.

    A mask of ones and zeros is (N, S), (N, L, S) or (N, 1, S, S).
    """
    rows, columns = scores.shape[0], scores.shape[-1]
    if mask.dim() == 1:
        if mask.shape[0] not in (rows, 2 * rows):
            raise UnsupportedOperator(f"{node.title} with a packed mask")
        place = torch.arange(columns, device=scores.device)
        visible = place < mask[:rows, None]
        if mask.shape[0] == 2 * rows:
            visible = visible & (place >= mask[rows:, None])
        return visible[:, None, None]
    if mask.dim() == 2:
        return mask[:, None, None] > 0
    if mask.dim() == 3:
        return mask[:, None] > 0
    return mask[..., columns - scores.shape[-2] :, :columns] > 0


@TABLE.add("RotaryEmbedding")
def _rotary_embedding(node: Node, x: Tensor, places: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions, (N, L, D) or (N, H, L, D / H); a single place is that of the first of the row."""
    length = x.shape[1] if x.dim() == 3 else x.shape[2]
    if places.numel() == 1:
        places = (places.reshape(1, 1) + torch.arange(length, device=x.device)).expand(x.shape[0], length)
    attributes = dict(node.attributes)
    if x.dim() == 3 and not node.integer("num_heads"):
        width = node.integer("rotary_embedding_dim") or 2 * cosine.shape[-1]
        attributes["num_heads"] = x.shape[-1] // width
    return rotary_embedding(dataclasses.replace(node, attributes=attributes), x, cosine, sine, places)
