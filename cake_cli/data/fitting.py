"""From rows as they are stored to rows as the classifier takes them, as its input spec says."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cake_cli.errors import DataError
from cake_cli.spec import InputSpec, format_shape

_LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601, as Pillow's mode L."""

_SLACK = 0.01
"""How far outside the input range values may lie, as a part of its width, before it is noted."""
_USUAL = 20.0
"""Normalised values are nearer to 0; what is further out, as bytes are, is raw."""


class Fitting:
    """Fits rows to an input spec, and remembers what it had to change.

    Args:
        spec: the classifier's input.
        name: what messages call the data.
    """

    def __init__(self, spec: InputSpec, name: str) -> None:
        self.spec = spec
        self.name = name
        self._notes: dict[str, str] = {}
        per_channel = (-1, *(1 for _ in spec.shape[1:]))
        self._mean = torch.tensor(spec.mean).reshape(per_channel)  # (C or 1, 1, 1) or (D or 1,)
        self._std = torch.tensor(spec.std).reshape(per_channel)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed so far, a sentence each."""
        return tuple(self._notes.values())

    def images(self, rows: Tensor) -> Tensor:
        """Images in the normalised space.

        Args:
            rows: (N, C, H, W), uint8 in 0..255 or float raw values; C, H and W may differ from the spec's.

        Returns:
            float32 (N, *spec.shape).

        Raises:
            DataError: if channels or sizes cannot be fitted, or values are not finite.
        """
        if not self.spec.is_image:
            return self.vectors(self._flattened(rows))
        rows = self._with_channels(rows, self.spec.channels)
        height, width = self.spec.shape[1:]
        found = rows.shape[2:]
        if tuple(found) != (height, width):
            self._notes.setdefault(
                "resized",
                f"images are resized to {height}x{width}, bilinear, whatever their proportions "
                f"(such as one of {found[0]}x{found[1]})",
            )
            rows = functional.interpolate(rows, (height, width), mode="bilinear", antialias=True)  # (N, C, H, W)
        return self._normalised(rows)

    def vectors(self, rows: Tensor) -> Tensor:
        """Vectors in the normalised space; an image spec takes them when the number of values agrees.

        Args:
            rows: (N, D), uint8 in 0..255 or float raw values.

        Returns:
            float32 (N, *spec.shape).

        Raises:
            DataError: if D is not the number of values of an input, or values are not finite.
        """
        if rows.shape[1] != self.spec.values:
            wanted = f" ({format_shape(self.spec.shape)})" if self.spec.is_image else ""
            raise DataError(
                f"{self.name} has {rows.shape[1]} values a row, the model takes {self.spec.values}{wanted}",
                "give data of that shape, or --input-shape where the model leaves it open",
            )
        if self.spec.is_image:
            shape = format_shape(self.spec.shape)
            self._notes.setdefault("unflattened", f"rows of {rows.shape[1]} values are read as images, {shape}")
        return self._normalised(rows.reshape(-1, *self.spec.shape))

    def _flattened(self, rows: Tensor) -> Tensor:
        """(N, C, H, W) as (N, D), in colour or else in grey, whichever gives D."""
        _, channels, height, width = rows.shape
        wanted = self.spec.values
        if channels in (3, 4) and height * width == wanted:
            rows = self._with_channels(rows, 1)
        elif channels * height * width != wanted:
            raise DataError(
                f"{self.name} has images of {channels}x{height}x{width}, the model takes vectors of {wanted}",
                f"give images that hold {wanted} values each",
            )
        self._notes.setdefault("flattened", f"images are flattened to {wanted} values (channel, row, column)")
        return rows.flatten(1)  # (N, D)

    def _with_channels(self, rows: Tensor, wanted: int) -> Tensor:
        """(N, C, H, W) with the wanted number of channels."""
        found = rows.shape[1]
        if found == 4 and wanted in (1, 3):
            self._notes.setdefault("alpha", "the fourth channel, alpha, is left out")
            rows, found = rows[:, :3], 3
        if found == wanted:
            return rows
        if found == 1 and wanted == 3:
            self._notes.setdefault("coloured", "grey images are repeated to 3 channels")
            return rows.expand(-1, 3, -1, -1)  # (N, 1, H, W) -> (N, 3, H, W)
        if found == 3 and wanted == 1:
            self._notes.setdefault("grey", "colour images are turned grey (BT.601)")
            luma = torch.tensor(_LUMA).reshape(3, 1, 1)
            grey = (rows.float() * luma).sum(dim=1, keepdim=True)  # (N, 3, H, W) -> (N, 1, H, W)
            return grey.round().to(rows.dtype) if rows.dtype == torch.uint8 else grey
        raise DataError(
            f"{self.name} has images of {found} channels, the model takes {wanted}",
            "give images with as many channels as the model takes",
        )

    def _normalised(self, rows: Tensor) -> Tensor:
        """(N, *spec.shape), scaled to the spec's range where they are uint8, then normalised."""
        values = rows.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        bounds = self.spec.range
        if rows.dtype != torch.uint8:
            self._look_at(values)
        elif bounds is not None:
            low, high = bounds
            values.mul_((high - low) / 255).add_(low)
        return values.sub_(self._mean).div_(self._std)

    def _look_at(self, values: Tensor) -> None:
        """Raw floats must be finite, and should lie in the spec's range."""
        low, high = (bound.item() for bound in values.aminmax())
        if not low - low == high - high == 0:  # inf - inf and nan - nan are nan
            raise DataError(
                f"{self.name} holds values that are not finite",
                "remove or fill the rows that hold nan or inf",
            )
        if self.spec.range is None:
            return
        if not self.spec.range_is_known and low > -_USUAL and high < _USUAL:
            return  # of about N(0, 1), as the file is taken to take them
        least, greatest = self.spec.range
        slack = _SLACK * (greatest - least)
        if low < least - slack or high > greatest + slack:
            self._notes.setdefault(
                "range",
                f"values from {low:.4g} to {high:.4g} lie outside the input range {least:g} to {greatest:g}: "
                "they are taken as raw values, not yet normalised; is --input-range right, or are they to be scaled?",
            )
