"""Which axis of an array is what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from cake_cli.data.fitting import Fitting
from cake_cli.errors import DataError
from cake_cli.spec import InputSpec, format_shape

Layout = Literal["vectors", "NHW", "NHWC", "NCHW"]

_CHANNELS = (1, 3, 4)
"""Numbers of channels that say of themselves that an axis is one of channels."""


def find_layout(shape: Sequence[int], spec: InputSpec, name: str) -> Layout:
    """The layout of an array of rows.

    Of two readings the one that gives exactly `spec.shape` is taken, then the one with the spec's number
    of channels, then the one whose channels are 1, 3 or 4.

    Args:
        shape: of the whole array, (N, ...).
        spec: the classifier's input, which settles what the shape leaves open.
        name: what messages call the data.

    Raises:
        DataError: if no layout fits.
    """
    if len(shape) == 2:
        return "vectors"
    if len(shape) == 3:
        return "NHW"
    if len(shape) == 4:
        _, first, _, last = shape
        channels_first = tuple(shape[1:])
        channels_last = (last, *shape[1:3])
        for fits_first, fits_last in (
            (channels_first == spec.shape, channels_last == spec.shape),
            (spec.is_image and first == spec.channels, spec.is_image and last == spec.channels),
            (first in _CHANNELS, last in _CHANNELS),
        ):
            if fits_first != fits_last:
                return "NCHW" if fits_first else "NHWC"
            if fits_first:
                return "NCHW"
    raise DataError(
        f"{name} is an array of shape {format_shape(shape)}, which is neither images nor vectors",
        "give (N, H, W), (N, H, W, C), (N, C, H, W) or (N, D)",
    )


def fit_rows(rows: Tensor, layout: Layout, fitting: Fitting) -> Tensor:
    """Rows of any layout, as the classifier takes them.

    Args:
        rows: (N, ...) in `layout`, uint8 or float.
        layout: what `find_layout` found.
        fitting: of the classifier's input spec.

    Returns:
        float32 (N, *spec.shape) in the normalised space.
    """
    if layout == "vectors":
        return fitting.vectors(rows)
    if layout == "NHW":
        rows = rows.unsqueeze(1)  # (N, H, W) -> (N, 1, H, W)
    elif layout == "NHWC":
        rows = rows.movedim(3, 1)  # (N, H, W, C) -> (N, C, H, W)
    return fitting.images(rows)
