"""Derivatives for torch's fused transformer operators, which have none.

A transformer traced under ``no_grad`` in eval mode carries ``aten::_transformer_encoder_layer_fwd`` or
``aten::_native_multi_head_attention``: fast paths of ``nn.TransformerEncoderLayer`` and
``nn.MultiheadAttention`` that autograd cannot follow. Here each gets, for autograd, the plain operators that
it stands for.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

FUSED = {"aten::_transformer_encoder_layer_fwd", "aten::_native_multi_head_attention"}


@cache
def give_derivatives() -> tuple[torch.library.Library, ...]:
    """Registers the plain forms with autograd, once for the process; results are the same numbers."""
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    for key in ("AutogradCPU", "AutogradCUDA", "AutogradMPS"):
        library.impl("_native_multi_head_attention", multi_head_attention, key)  # type: ignore[no-untyped-call]
        library.impl("_transformer_encoder_layer_fwd", encoder_layer, key)  # type: ignore[no-untyped-call]
    return (library,)


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Tensor, Tensor]:
    """``aten::_native_multi_head_attention``: (N, L, E) to (N, L, E) and the weights, or an empty tensor.

    A mask is boolean, true where nothing may be attended to; `mask_type` 0 is (L, S), 1 is padding (N, S), 2
    is (N, heads, L, S).
    """
    weights = qkv_weight.chunk(3)
    biases = qkv_bias.chunk(3)
    parts = [F.linear(part, w, b) for part, w, b in zip((query, key, value), weights, biases, strict=True)]
    q, k, v = (part.reshape(*part.shape[:2], num_head, -1).transpose(1, 2) for part in parts)  # (N, heads, L, E/heads)
    scores = q @ k.transpose(-2, -1) / (embed_dim // num_head) ** 0.5  # (N, heads, L, S)
    if mask is not None:
        scores = scores.masked_fill(mask[:, None, None, :] if mask_type == 1 else mask, float("-inf"))
    attention = scores.softmax(dim=-1)
    mixed = (attention @ v).transpose(1, 2).flatten(2)  # (N, L, E)
    shown = attention.mean(dim=1) if average_attn_weights else attention
    return F.linear(mixed, proj_weight, proj_bias), shown if need_weights else query.new_empty(0)


def encoder_layer(
    src: Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Tensor,
    norm_bias_1: Tensor,
    norm_weight_2: Tensor,
    norm_bias_2: Tensor,
    ffn_weight_1: Tensor,
    ffn_bias_1: Tensor,
    ffn_weight_2: Tensor,
    ffn_bias_2: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:
    """``aten::_transformer_encoder_layer_fwd``: (N, L, E) to (N, L, E)."""

    def attend(rows: Tensor) -> Tensor:
        return multi_head_attention(
            *(rows, rows, rows, embed_dim, num_heads, qkv_weight, qkv_bias, proj_weight, proj_bias),
            mask=mask,
            need_weights=False,
            mask_type=mask_type,
        )[0]

    def expand(rows: Tensor) -> Tensor:
        hidden = F.linear(rows, ffn_weight_1, ffn_bias_1)
        return F.linear(F.gelu(hidden) if use_gelu else F.relu(hidden), ffn_weight_2, ffn_bias_2)

    def first(rows: Tensor) -> Tensor:
        return F.layer_norm(rows, (embed_dim,), norm_weight_1, norm_bias_1, eps)

    def second(rows: Tensor) -> Tensor:
        return F.layer_norm(rows, (embed_dim,), norm_weight_2, norm_bias_2, eps)

    if norm_first:
        src = src + attend(first(src))
        return src + expand(second(src))
    src = first(src + attend(src))
    return second(src + expand(src))
