"""Where randomness enters: a stream for each set, and step sizes that differ from set to set."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.config import Init, Noise, StepSchedule
from cake_cli.synthesis.scenes import draw_scenes, in_colour

PICTURES = ("scenes", "exposed")
"""Starting points that lie within the range of inputs."""


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
    """A random stream of one set and purpose, the same whatever else is computed before or beside it.

    On a CPU torch seeds a stream with 32 bits, so among hundreds of thousands of sets a few are drawn alike.
    """
    return torch.Generator(device).manual_seed(seed_of(f"{seed}/{index}/{purpose}"))


def seed_of(purpose: str) -> int:
    """A seed, in 0..2^63 - 1, that shares nothing with that of another purpose."""
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little") >> 1


def draw_start(
    shape: tuple[int, ...],
    count: int,
    generator: torch.Generator,
    init: Init = "normal",
    bounds: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Starting points of one set, (count, *shape), on the CPU; but for pictures of mean zero and variance one.

    Args:
        shape: of a row.
        count: how many.
        generator: the set's stream.
        init: ``normal`` is N(0, I), the paper's; ``uniform`` has the same variance; ``smooth`` is noise of many
            scales, for images; for vectors it is normal; ``exposed`` is smooth noise as if photographed at random
            brightness and contrast, and so within `bounds`; ``scenes`` is a third of that in joint colours, a third
            of shapes that hide each other, and a third of lines. Without bounds the last two are smooth.
        bounds: least and greatest value of each channel, (C, 1, 1).
    """
    if init in PICTURES and bounds is not None and len(shape) == 3:
        low, high = bounds
        draw = _draw_exposed if init == "exposed" else _draw_scenes
        return low + (high - low) * draw((shape[0], shape[1], shape[2]), count, generator)
    if init == "uniform":
        return (torch.rand(count, *shape, generator=generator) * 2 - 1) * math.sqrt(3)
    if init in ("smooth", *PICTURES) and len(shape) == 3:
        return _smooth((shape[0], shape[1], shape[2]), count, generator)
    return torch.randn(count, *shape, generator=generator)


def _draw_exposed(shape: tuple[int, int, int], count: int, generator: torch.Generator) -> Tensor:
    return _exposed(_smooth(shape, count, generator, finest=2), generator)


def _draw_scenes(shape: tuple[int, int, int], count: int, generator: torch.Generator) -> Tensor:
    def noise(rows: int) -> Tensor:
        return _exposed(in_colour(_smooth(shape, rows, generator, finest=2), generator), generator)

    return draw_scenes(shape, noise, lambda rows: _smooth(shape, rows, generator), count, generator)


def _smooth(shape: tuple[int, int, int], count: int, generator: torch.Generator, finest: int = 1) -> Tensor:
    """Gaussian noise on grids of 1, 2, 4, ... cells, enlarged, mixed in proportions that differ by sample.

    The last grid is the first whose cells are of `finest` pixels or fewer.
    """
    channels, height, width = shape
    total = torch.zeros(count, *shape)
    norm = torch.zeros(count, 1, 1, 1)
    cells = 1
    while cells == 1 or cells * finest < 2 * max(height, width):
        grid = (min(cells, height), min(cells, width))
        layer = torch.randn(count, channels, *grid, generator=generator)
        if grid != (height, width):
            layer = _enlarging(grid[0], height) @ (layer @ _enlarging(grid[1], width).T)
        size = torch.linalg.vector_norm(layer, dim=(1, 2, 3), keepdim=True) / math.sqrt(channels * height * width)
        share = torch.randn(count, 1, 1, 1, generator=generator)
        total.addcmul_(layer, share / size.clamp_min(1e-3))
        norm += share.square()
        cells *= 2
    return total.div_(norm.sqrt_())


def _enlarging(cells: int, pixels: int) -> Tensor:
    """What takes values at evenly spaced points to pixels between them, linearly: (pixels, cells)."""
    points = torch.eye(cells)[None]
    return F.interpolate(points, size=pixels, mode="linear", align_corners=True)[0].T


def _exposed(noise: Tensor, generator: torch.Generator) -> Tensor:
    """Noise (N, C, H, W) of variance one at brightnesses and contrasts that differ by sample, cut off at 0 and 1.

    Half of them fade towards an even background outside a soft window, as objects in pictures stand before one.
    """
    count, _, height, width = noise.shape
    windows = []
    for length, axes in ((height, (1, 1, -1, 1)), (width, (1, 1, 1, -1))):
        place = torch.linspace(-1, 1, length).reshape(axes)
        centre = 0.3 * torch.randn(count, 1, 1, 1, generator=generator)
        extent = torch.empty(count, 1, 1, 1).uniform_(0.3, 1, generator=generator)
        windows.append((-((place - centre) / extent).square() / 2).exp())
    background = torch.randn(count, 1, 1, 1, generator=generator)
    framed = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    inside = torch.where(framed, windows[0] * windows[1], 1.0)  # (N, 1, H, W)
    noise = background.lerp(noise, inside)
    brightness = torch.empty(count, 1, 1, 1).uniform_(-0.25, 1.25, generator=generator)
    contrast = torch.empty(count, 1, 1, 1).uniform_(-3, 2, generator=generator).exp2()
    return torch.addcmul(brightness, contrast, noise).clamp_(0, 1)


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
