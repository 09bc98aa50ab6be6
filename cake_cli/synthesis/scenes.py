"""Starting points that have what pictures have, and show nothing: noise, occluding shapes, and lines.

What a picture is made of, whatever it shows: surfaces that hide each other, with edges between them; textures of many
scales; lines; light that is not the same everywhere. A teacher of pictures answers to these, so its labels of them say
more than its labels of noise. Occlusion is the dead leaves model (Lee, Mumford, Huang, "Occlusion Models for Natural
Images", IJCV 2001); that networks learn to see from such noise is shown by Baradad, Wulff, Wang, Isola, Torralba,
"Learning to See by Looking at Noise", NeurIPS 2021. No data are needed for any of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

LEAVES = 24
"""Most shapes of a picture of leaves."""
WAVES, WAVE_PIXELS = 8.0, 3.5
"""Most waves of stripes across a picture, and the fewest pixels of each: of fewer, what is seen would be chance."""
STROKES, POINTS = 3, 16
"""Most lines of a picture of strokes, and the points that each is drawn through."""
EDGE = 4.0
"""How sharp edges are: they take about a quarter of a shape's radius, or of a line's width."""


def draw_scenes(
    shape: tuple[int, int, int],
    noise: Callable[[int], Tensor],
    texture: Callable[[int], Tensor],
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Pictures (count, C, H, W) within 0 and 1: a third each of noise, leaves and strokes, in random order.

    Args:
        shape: (C, H, W).
        noise: draws so many pictures of noise within 0 and 1, (n, C, H, W).
        texture: draws so much noise of variance one, (n, C, H, W).
        count: how many.
        generator: the stream of all that is random.
    """
    third = count // 3
    parts = [noise(count - 2 * third)]
    if third:
        parts += [_leaves(texture(third), generator), _strokes(shape, third, generator)]
    return torch.cat(parts)[torch.randperm(count, generator=generator)]


def in_colour(noise: Tensor, generator: torch.Generator) -> Tensor:
    """Noise (N, C, H, W) of variance one whose channels go together, in a measure that differs by sample.

    Light changes all channels of a picture at once; noise that is drawn for each channel alone is garish instead.
    """
    count, channels = noise.shape[:2]
    if channels == 1:
        return noise
    common = noise.mean(dim=1, keepdim=True) * math.sqrt(channels)
    share = torch.rand(count, 1, 1, 1, generator=generator)
    mixed = share.sqrt() * common + (1 - share).sqrt() * noise  # correlated by 1/sqrt(C) before
    return mixed / (1 + 2 * (share * (1 - share) / channels).sqrt()).sqrt()


def _leaves(texture: Tensor, generator: torch.Generator) -> Tensor:
    """Shapes between ellipse and rectangle, of sizes over three octaves, each hiding what is behind it: (N, C, H, W).

    Each has a colour of its own and, in strengths of their own, a piece of the one texture (N, C, H, W), light that
    falls off to one side, and half of them stripes.
    """
    count, channels, height, width = texture.shape
    texture = in_colour(texture, generator)
    down, across = _places(height, width)

    def strength() -> Tensor:
        return _uniform(count, -5, -1, generator).exp2()

    picture = _shade(count, channels, generator) + strength() * texture
    largest = _uniform(count, 0.3, 1.2, generator)
    shown = torch.randint(1, LEAVES + 1, (count, 1, 1, 1), generator=generator)
    for leaf in range(LEAVES):
        y, x = (_uniform(count, -1.1, 1.1, generator) for _ in range(2))
        size = largest * _uniform(count, -3, 0, generator).exp2()
        aspect = (torch.randn(count, 1, 1, 1, generator=generator) / 2).exp()
        angle = _uniform(count, 0, math.pi, generator)
        one = (((across - x) * angle.cos() + (down - y) * angle.sin()) / (size * aspect)).square_()  # (N, 1, H, W)
        other = (((down - y) * angle.cos() - (across - x) * angle.sin()) * (aspect / size)).square_()
        roundness = torch.rand(count, 1, 1, 1, generator=generator)
        outside = torch.maximum(one, other).lerp_(one + other, roundness)  # 1 on the outline
        hides = (1 - outside).mul_(EDGE).add_(0.5).clamp_(0, 1).mul_(leaf < shown)
        shift = [int(torch.randint(length, (1,), generator=generator)) for length in (height, width)]
        surface = _shade(count, channels, generator) + strength() * texture.roll(shift, (2, 3))
        striped = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
        surface += strength() * striped * _stripes(down, across, count, generator)
        towards = _uniform(count, 0, 2 * math.pi, generator)
        surface += strength() * ((across - x) * towards.cos() + (down - y) * towards.sin()) / size
        picture.lerp_(surface, hides.expand_as(picture))
    return picture.clamp_(0, 1)


def _stripes(down: Tensor, across: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Waves between -1 and 1, of widths over up to three and a half octaves, in any direction: (N, 1, H, W)."""
    finest = min(WAVES, max(1.0, max(down.numel(), across.numel()) / WAVE_PIXELS))
    angle, waves = _uniform(count, 0, math.pi, generator), _uniform(count, -0.5, math.log2(finest), generator).exp2()
    phase = _uniform(count, 0, 2 * math.pi, generator)
    return (waves * math.pi * (across * angle.cos() + down * angle.sin()) + phase).sin()


def _strokes(shape: tuple[int, int, int], count: int, generator: torch.Generator) -> Tensor:
    """Up to three bent lines of one colour before another, (N, C, H, W): what is written, or drawn."""
    channels, height, width = shape
    down, across = _places(height, width)
    ink = torch.zeros(count, 1, height, width)
    shown = torch.randint(1, STROKES + 1, (count, 1, 1, 1), generator=generator)
    thickness = _uniform(count, -3.6, -1.6, generator).exp2()  # 1/12 to 1/3, where the picture is 2 wide
    for stroke in range(STROKES):
        y, x = (_uniform(count, -0.8, 0.8, generator) for _ in range(2))
        angle, stride = _uniform(count, 0, 2 * math.pi, generator), _uniform(count, 0.02, 0.16, generator)
        bend = 0.35 * torch.randn(count, 1, 1, 1, generator=generator)
        nearest = torch.full((count, 1, height, width), math.inf)
        for _ in range(POINTS):
            nearest = torch.minimum(nearest, (across - x).square() + (down - y).square(), out=nearest)
            y, x = y + stride * angle.sin(), x + stride * angle.cos()
            bend = bend + 0.15 * torch.randn(count, 1, 1, 1, generator=generator)
            leaves = (x.abs() > 0.9) | (y.abs() > 0.9)
            angle = torch.where(leaves, torch.atan2(-y, -x), angle + bend)  # back to the middle
        covers = (1 - nearest.sqrt_() / thickness).mul_(EDGE).sigmoid_().mul_(stroke < shown)
        ink = torch.maximum(ink, covers)
    paper, colour = (
        ((_shade(count, channels, generator) - 0.5) * 1.6 + 0.5).clamp_(0, 1) for _ in range(2)
    )  # often black or white
    return paper + ink * (colour - paper)


def _places(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where pixels are, from -1 to 1: (1, 1, H, 1) and (1, 1, 1, W)."""
    return torch.linspace(-1, 1, height).reshape(1, 1, -1, 1), torch.linspace(-1, 1, width).reshape(1, 1, 1, -1)


def _shade(count: int, channels: int, generator: torch.Generator) -> Tensor:
    """Colours (N, C, 1, 1) between grey and whatever, within 0 and 1."""
    grey = torch.rand(count, 1, 1, 1, generator=generator)
    any_colour = torch.rand(count, channels, 1, 1, generator=generator)
    return grey.lerp(any_colour, torch.rand(count, 1, 1, 1, generator=generator))


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.empty(count, 1, 1, 1).uniform_(low, high, generator=generator)
