"""A small Vision Transformer with options (Dosovitskiy et al. 2021), for images of any shape that patches divide."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cake_cli.catalog import VIT_LIMITS
from cake_cli.errors import UsageError
from cake_cli.spec import format_shape

MOST_PATCHES = 4096
"""How many patches an image may be cut into where nobody chose the patch: attention grows with their square."""
USUAL_PATCHES, FEWEST_PATCHES = 7, 4
"""Patches a side that a patch should leave, and that it should leave in a small image."""
LARGEST_PATCH = 16


class Block(nn.Module):
    """Self-attention and a two-layer perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, dim) to (N, T, dim)."""
        count, length, dim = tokens.shape
        split = self.qkv(self.norm1(tokens)).reshape(count, length, 3, self.heads, dim // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind()  # (N, heads, T, dim / heads) each
        mixed = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.proj(mixed.transpose(1, 2).reshape(count, length, dim))
        summed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return summed


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, blocks, and a linear layer on the class token."""

    def __init__(
        self, shape: tuple[int, int, int], classes: int, *, patch: int, dim: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (height // patch) * (width // patch), dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)
        for tensor in (self.token, self.positions):
            nn.init.trunc_normal_(tensor, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, rows: Tensor) -> Tensor:
        """(N, C, H, W) to (N, K)."""
        patches = self.patches(rows).flatten(2).transpose(1, 2)  # (N, T, dim)
        tokens = torch.cat([self.token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(tokens)[:, 0]))
        return logits


def vit_options(shape: tuple[int, int, int], given: Mapping[str, int], defaults: Mapping[str, int]) -> dict[str, int]:
    """The options of a ViT for an image: those given, the defaults, and a patch that divides the image.

    Where no patch was chosen it is the largest up to 16 that leaves at least 7 patches a side (4 for 28x28 and
    32x32, 16 for 224x224), in small images the smallest of several pixels that leaves 4 (2 for 8x8), else a pixel.

    Raises:
        UsageError: if the patch does not divide the image, or none would do.
    """
    height, width = shape[1:]
    largest = min(height, width, VIT_LIMITS["patch"])
    divisors = [size for size in range(1, largest + 1) if height % size == 0 == width % size]
    patch = given.get("patch")
    if patch is None:
        several = [size for size in divisors if 1 < size <= LARGEST_PATCH]
        fine = [size for size in several if min(height, width) // size >= USUAL_PATCHES]
        coarse = [size for size in several if min(height, width) // size >= FEWEST_PATCHES]
        patch = fine[-1] if fine else coarse[0] if coarse else 1
        if (height // patch) * (width // patch) > MOST_PATCHES:
            raise UsageError(
                f"vit finds no patch for images of {format_shape(shape)}: {patch}x{patch} would make "
                f"{(height // patch) * (width // patch):,} of them",
                f"--student vit:patch={divisors[-1]}",
            )
    elif patch not in divisors:
        nearest = max((size for size in divisors if size <= patch), default=1)
        raise UsageError(
            f"a patch of {patch} does not divide images of {format_shape(shape)}; "
            f"{_listed(divisors)} {'does' if len(divisors) == 1 else 'do'}",
            f"--student {_written(dict(given) | {'patch': nearest})}",
        )
    return {"patch": patch} | {key: given.get(key, value) for key, value in defaults.items()}


def _listed(sizes: list[int]) -> str:
    head = ", ".join(map(str, sizes[:-1]))
    return f"{head} and {sizes[-1]}" if head else str(sizes[-1])


def _written(options: Mapping[str, int]) -> str:
    return "vit:" + ",".join(f"{key}={value}" for key, value in options.items())
