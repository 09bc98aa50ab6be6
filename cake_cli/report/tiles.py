"""Samples as small pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cake_cli.report.gallery import ClassRow
from cake_cli.spec import InputSpec

LARGEST = 96
"""Pixels of a side, above which a picture is made smaller."""
_STRETCH = 4


def value_range(rows: Sequence[ClassRow], spec: InputSpec) -> tuple[float, float]:
    """The raw values that are shown as black and white: the range of the input, or what the samples span."""
    if spec.range is not None:
        return spec.range
    low = min(float(shown.raw.min()) for row in rows for shown in row.samples)
    high = max(float(shown.raw.max()) for row in rows for shown in row.samples)
    return (low, high) if low < high else (low, low + 1.0)


def pixels(raw: NDArray[np.float32], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """A raw image (C, H, W) as uint8 (H, W, 3): grey for one channel, the mean of two, the first three of more."""
    low, high = limits
    channels = raw[:3] if len(raw) >= 3 else np.repeat(raw.mean(axis=0, keepdims=True), 3, axis=0)  # (3, H, W)
    scaled = ((channels - low) / (high - low)).clip(0, 1)
    return np.asarray(np.round(scaled * 255), np.uint8).transpose(1, 2, 0)  # (H, W, 3)


def shrink(image: NDArray[np.uint8]) -> Image.Image:
    """A picture of at most `LARGEST` a side; one that is very long is made square to be visible."""
    picture = Image.fromarray(image)
    sides = picture.size
    if max(sides) > _STRETCH * min(sides):
        side = min(max(sides), LARGEST)
        return picture.resize((side, side), Image.Resampling.BOX)
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    return picture


def encode(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    plain = picture.convert("L") if _is_grey(picture) else picture
    buffer = io.BytesIO()
    plain.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _is_grey(picture: Image.Image) -> bool:
    values = np.asarray(picture)
    return bool((values == values[..., :1]).all())


def channels_note(channels: int) -> str:
    """What a picture leaves out of its channels; empty for 1 and 3."""
    if channels == 2:
        return "Shown is the mean of the two channels."
    return f"Shown are the first three of {channels} channels." if channels > 3 else ""
