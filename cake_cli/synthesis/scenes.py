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
AT_ONCE = 1 << 19
"""Numbers that the pictures drawn at once come to: of more, what is computed for them would not stay in the cache."""
TOGETHER = 1 << 16
"""Numbers that shapes or points computed at once come to: many for small pictures, few enough to stay in the cache."""
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
        textures = torch.split(texture(third), max(1, AT_ONCE // math.prod(shape)))
        parts += [_leaves(some, generator) for some in textures]
        parts += [_strokes(shape, len(some), generator) for some in textures]
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
    falls off to one side, and half of them stripes. What depends on a row or a column of pixels alone is computed
    for those, (L, N, C, 1, W) and (L, N, C, H, 1) of all L shapes at once: few operations have every pixel of a shape.
    """
    count, channels, height, width = texture.shape
    texture = in_colour(texture, generator)
    picture = _shade((count, channels), generator) + _strength((count, 1), generator) * texture
    each = (LEAVES, count, 1)
    down, across = _places(height, width)
    down = down - _uniform(each, -1.1, 1.1, generator)
    across = across - _uniform(each, -1.1, 1.1, generator)
    size = _uniform((count, 1), 0.3, 1.2, generator) * _uniform(each, -3, 0, generator).exp2()
    aspect = (torch.randn(*each, 1, 1, generator=generator) / 2).exp()
    roundness = _uniform(each, 0, 1, generator)
    one, other = _turned(down, across, _uniform(each, 0, math.pi, generator), size * aspect, size / aspect)
    light = _strength(each, generator) / size
    towards = _uniform(each, 0, 2 * math.pi, generator)
    lit_down, lit_across = light * towards.sin() * down, light * towards.cos() * across
    lit_across = lit_across + _shade((LEAVES, count, channels), generator)
    stripes_down, stripes_across = _stripes(_strength(each, generator), height, width, generator)
    grain, tiled = _strength(each, generator), texture.tile(1, 1, 2, 2)
    corners = torch.stack([torch.randint(length, (LEAVES,), generator=generator) for length in (height, width)], 1)
    shown = torch.randint(1, LEAVES + 1, (count,), generator=generator).sort(descending=True).values
    having = (shown > torch.arange(LEAVES)[:, None]).sum(dim=1).tolist()  # so many pictures, the first, have a leaf
    together = max(1, TOGETHER // texture.numel())
    for first in range(0, LEAVES, together):
        own = (slice(first, first + together), slice(0, having[first]))  # (l, n, 1 or C, H or 1, W or 1)
        along, beside = (a[own].add(b[own]).square_() for a, b in (one, other))
        outside = torch.maximum(along, beside).lerp_(along.add_(beside), roundness[own])  # 1 on the outline
        hides = outside.mul_(-EDGE).add_(EDGE + 0.5).clamp_(0, 1)
        surface = lit_across[own] + lit_down[own]  # (l, n, C, H, W)
        pieces = [tiled[own[1], :, top : top + height, left : left + width] for top, left in corners[own[0]].tolist()]
        surface.addcmul_(grain[own], torch.stack(pieces))
        for vertical, horizontal in zip(stripes_down, stripes_across, strict=True):
            surface.addcmul_(vertical[own], horizontal[own])
        for n, hiding, seen in zip(having[own[0]], hides.expand_as(surface), surface, strict=True):
            picture[:n].lerp_(seen[:n], hiding[:n])
    return picture.clamp_(0, 1)


def _turned(
    down: Tensor, across: Tensor, angle: Tensor, length: Tensor, breadth: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Places along the axes of turned shapes: for each axis, what columns and rows add up to, 1 at the shape's end."""
    along = (across * (angle.cos() / length), down * (angle.sin() / length))
    beside = (across * (-angle.sin() / breadth), down * (angle.cos() / breadth))
    return along, beside


def _stripes(
    strength: Tensor, height: int, width: int, generator: torch.Generator
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Waves of some strengths (L, N, 1, 1, 1), of widths over up to three and a half octaves, in any direction.

    Half of them are none. A wave is the sum of two products, sin(a + b) = sin a cos b + cos a sin b: the factors of
    rows, (L, N, 1, H, 1), and of columns, (L, N, 1, 1, W).
    """
    each = strength.shape[:3]
    down, across = _places(height, width)
    finest = min(WAVES, max(1.0, max(height, width) / WAVE_PIXELS))
    angle, frequency = _uniform(each, 0, math.pi, generator), _uniform(each, -0.5, math.log2(finest), generator).exp2()
    phase_down = math.pi * frequency * angle.sin() * down + _uniform(each, 0, 2 * math.pi, generator)
    phase_across = math.pi * frequency * angle.cos() * across
    strength = strength * (_uniform(each, 0, 1, generator) < 0.5)
    return (strength * phase_down.sin(), strength * phase_down.cos()), (phase_across.cos(), phase_across.sin())


def _strokes(shape: tuple[int, int, int], count: int, generator: torch.Generator) -> Tensor:
    """Up to three bent lines of one colour before another, (N, C, H, W): what is written, or drawn."""
    channels, height, width = shape
    down, across = _places(height, width)
    each = (STROKES, count, 1)
    thickness = _uniform((count, 1), -3.6, -1.6, generator).exp2()  # 1/12 to 1/3, where the picture is 2 wide
    shown = torch.randint(1, STROKES + 1, (count,), generator=generator).sort(descending=True).values
    y, x = (_uniform(each, -0.8, 0.8, generator) for _ in range(2))
    angle, stride = _uniform(each, 0, 2 * math.pi, generator), _uniform(each, 0.02, 0.16, generator)
    bends = 0.35 * torch.randn(*each, 1, 1, generator=generator)
    bends = bends + (0.15 * torch.randn(POINTS, *each, 1, 1, generator=generator)).cumsum(0)
    rows, columns = [], []
    for bend in bends:
        rows.append((down - y).square_())
        columns.append((across - x).square_())
        y, x = y + stride * angle.sin(), x + stride * angle.cos()
        leaves = (x.abs() > 0.9) | (y.abs() > 0.9)
        angle = torch.where(leaves, torch.atan2(-y, -x), angle + bend)  # back to the middle
    together = max(1, TOGETHER // (count * height * width))
    points = list(zip(*(torch.split(torch.stack(part), together) for part in (rows, columns)), strict=True))
    ink = torch.zeros(count, 1, height, width)
    for stroke in range(STROKES):
        n = int((shown > stroke).sum())  # the first n pictures have so many lines
        nearest = torch.full((n, 1, height, width), math.inf)
        for row, column in points:
            distances = row[:, stroke, :n] + column[:, stroke, :n]  # (p, n, 1, H, W)
            while (half := (len(distances) + 1) // 2) < len(distances):
                distances = torch.minimum(distances[:half], distances[-half:])  # amin over p is far slower
            nearest = torch.minimum(nearest, distances[0], out=nearest)
        covers = nearest.sqrt_().div_(thickness[:n]).mul_(-EDGE).add_(EDGE).sigmoid_()
        ink[:n] = torch.maximum(ink[:n], covers)
    paper, colour = (
        ((_shade((count, channels), generator) - 0.5) * 1.6 + 0.5).clamp_(0, 1) for _ in range(2)
    )  # often black or white
    return paper + ink * (colour - paper)


def _places(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where pixels are, from -1 to 1: (1, 1, H, 1) and (1, 1, 1, W)."""
    return torch.linspace(-1, 1, height).reshape(1, 1, -1, 1), torch.linspace(-1, 1, width).reshape(1, 1, 1, -1)


def _shade(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Colours (*size, 1, 1) between grey and whatever, within 0 and 1; the last of `size` are channels."""
    grey, share = (_uniform((*size[:-1], 1), 0, 1, generator) for _ in range(2))
    return grey.lerp(_uniform(size, 0, 1, generator), share)


def _strength(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Of texture, light or stripes, over four octaves: (*size, 1, 1)."""
    return _uniform(size, -5, -1, generator).exp2()


def _uniform(size: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.empty(*size, 1, 1).uniform_(low, high, generator=generator)
