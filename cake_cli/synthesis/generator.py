"""A generator g(z, y) trained through the teacher: generative inversion, the talk's second system.

The network is amortised over all samples: it is trained once, before the first set, and every set is then drawn
from it. Training minimises CE(f(g(z, y)), y) with the same data priors as CAKE, and nothing contrasts or disperses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cake_cli.spec import InputSpec
from cake_cli.synthesis.noise import stream

LATENT = 64
"""Length of z."""
WIDTH = 64
"""Channels of the images on the way; a vector has twice as many hidden units."""
SMALLEST = 7
"""The longest side of the images that the network begins with."""


class ImageGenerator(nn.Module):
    """Images of any size and number of channels: a linear layer, then doubling and convolving, then cropping.

    Normalised by groups of channels within a sample, so that samples do not depend on each other and no statistics
    are kept.
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, self.height, self.width = shape
        doublings = max(0, math.ceil(math.log2(max(self.height, self.width) / SMALLEST)))
        self.base = (math.ceil(self.height / 2**doublings), math.ceil(self.width / 2**doublings))
        self.first = nn.Linear(LATENT + classes, WIDTH * math.prod(self.base))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, WIDTH), nn.LeakyReLU(0.2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
            for _ in range(doublings)
        )
        self.last = nn.Sequential(nn.GroupNorm(8, WIDTH), nn.LeakyReLU(0.2), nn.Conv2d(WIDTH, channels, 3, padding=1))

    def forward(self, latents: Tensor) -> Tensor:
        """(N, LATENT + K) to (N, C, H, W)."""
        images: Tensor = self.first(latents).reshape(-1, WIDTH, *self.base)  # (N, WIDTH, h, w)
        for block in self.blocks:
            images = block(_doubled(images))
        images = self.last(images)
        return images[:, :, : self.height, : self.width]


class VectorGenerator(nn.Module):
    """Vectors: a perceptron of two hidden layers."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        hidden = 2 * WIDTH
        self.layers = nn.Sequential(
            nn.Linear(LATENT + classes, hidden), nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden), nn.LeakyReLU(0.2),
            nn.Linear(hidden, shape[0]),
        )  # fmt: skip

    def forward(self, latents: Tensor) -> Tensor:
        """(N, LATENT + K) to (N, D)."""
        rows: Tensor = self.layers(latents)
        return rows


def _doubled(images: Tensor) -> Tensor:
    """Nearest-neighbour enlargement (N, C, h, w) to (N, C, 2h, 2w), whose gradient is a plain sum on every device."""
    return images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


@dataclass(frozen=True)
class Generator:
    """A network with what it takes to draw the samples of a set from it."""

    network: nn.Module
    """On the device."""
    classes: int
    """K."""
    bounds: tuple[Tensor, Tensor] | None = None
    """Least and greatest normalised value, on the device: outputs are squashed between them; None for no bounds."""

    def __call__(self, latents: Tensor, targets: Tensor) -> Tensor:
        """Latents (N, LATENT) and labels (N,) to normalised inputs (N, *shape)."""
        labels = F.one_hot(targets, self.classes).to(latents.dtype)  # (N, K)
        outputs: Tensor = self.network(torch.cat([latents, labels], dim=1))
        if self.bounds is None:
            return outputs
        middle, half = (self.bounds[0] + self.bounds[1]) / 2, (self.bounds[1] - self.bounds[0]) / 2
        return middle + half * ((outputs - middle) / half).tanh()

    @torch.no_grad()
    def draw(self, targets: Tensor, generator: torch.Generator, rows_per_pass: int) -> Tensor:
        """The samples of one set, (B, *shape) on the CPU.

        Args:
            targets: (B,), the set's labels, on the CPU.
            generator: the set's stream, on the CPU.
            rows_per_pass: samples that go through the network together.
        """
        latents = draw_latents(len(targets), generator)
        device = next(self.network.parameters()).device
        parts = zip(torch.split(latents, rows_per_pass), torch.split(targets, rows_per_pass), strict=True)
        return torch.cat([self(rows.to(device), labels.to(device)).cpu().contiguous() for rows, labels in parts])


def build_network(spec: InputSpec, classes: int, seed: int) -> nn.Module:
    """An untrained network, the same for the same seed; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, 0, "generator").initial_seed())
        return (ImageGenerator if spec.is_image else VectorGenerator)(spec.shape, classes)


def draw_latents(count: int, generator: torch.Generator) -> Tensor:
    """Z of N(0, I), (count, LATENT), on the CPU."""
    return torch.randn(count, LATENT, generator=generator)
