"""Where randomness enters: a stream for each set, and step sizes that differ from set to set."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.config import Init, Noise, StepSchedule


def step_size(
    index: int, sets: int, *, first: float, decades: float, schedule: StepSchedule, noise: Noise = "implicit"
) -> float:
    """The step size of one set: implicit noise (Braun et al. 2024, Section 3).

    Args:
        index: the set, from 0.
        sets: S, how many there are.
        first: the step size of set 0.
        decades: m, the powers of ten that it falls over all sets.
        schedule: ``linear`` or ``cosine`` in the logarithm.
        noise: ``implicit`` and ``both`` let it fall; ``langevin`` and ``none`` are without implicit noise: every set
            has the step size in the middle of that fall.

    Returns:
        ``first · 10^(-m · index / S)`` for ``linear``, ``first · 10^(-m / 2)`` without implicit noise.
    """
    progress = index / sets
    fallen = progress if schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
    if noise in ("langevin", "none"):
        fallen = 0.5
    return float(first * 10 ** (-decades * fallen))


def stream(seed: int, index: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A random stream of one set and purpose, the same whatever else is computed before or beside it."""
    digest = hashlib.sha256(f"{seed}/{index}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def draw_start(shape: tuple[int, ...], count: int, generator: torch.Generator, init: Init = "normal") -> Tensor:
    """Starting points of one set, (count, *shape), of mean zero and variance one, on the CPU.

    Args:
        shape: of a row.
        count: how many.
        generator: the set's stream.
        init: ``normal`` is N(0, I), the paper's; ``uniform`` has the same variance; ``smooth`` is noise of many
            scales, for images; for vectors it is normal.
    """
    if init == "uniform":
        return (torch.rand(count, *shape, generator=generator) * 2 - 1) * math.sqrt(3)
    if init == "smooth" and len(shape) == 3:
        return _smooth(shape, count, generator)
    return torch.randn(count, *shape, generator=generator)


def _smooth(shape: tuple[int, ...], count: int, generator: torch.Generator) -> Tensor:
    """Gaussian noise on grids of 1, 2, 4, ... cells, enlarged, mixed in proportions that differ by sample."""
    channels, height, width = shape
    total = torch.zeros(count, *shape)
    norm = torch.zeros(count, 1, 1, 1)
    cells = 1
    while cells < 2 * max(height, width):
        grid = (min(cells, height), min(cells, width))
        layer = torch.randn(count, channels, *grid, generator=generator)
        layer = F.interpolate(layer, size=(height, width), mode="bilinear", align_corners=True)
        layer = layer / layer.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-3)
        share = torch.randn(count, 1, 1, 1, generator=generator)
        total += share * layer
        norm += share.square()
        cells *= 2
    return total / norm.sqrt()


def draw_labels(rows: int, groups: int, classes: int, generator: torch.Generator) -> Tensor:
    """Target labels (rows, groups) of one set: each row holds distinct classes, drawn at random."""
    orders = [torch.randperm(classes, generator=generator)[:groups] for _ in range(rows)]
    return torch.stack(orders)  # (R, G)


def add_langevin(rows: Tensor, step_sizes: list[float], generators: list[torch.Generator]) -> None:
    """Adds sqrt(2 · step size) · N(0, I) in place, each set from its own stream.

    Args:
        rows: (P · B, *shape), P sets of B rows in turn.
        step_sizes: P step sizes.
        generators: P streams on the device of `rows`.
    """
    size = len(rows) // len(step_sizes)
    for position, (eta, generator) in enumerate(zip(step_sizes, generators, strict=True)):
        own = rows[position * size : (position + 1) * size]
        noise = torch.empty(own.shape, device=own.device).normal_(generator=generator)
        own.add_(noise, alpha=math.sqrt(2 * eta))
