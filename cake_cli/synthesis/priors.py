"""Data priors: what an input should look like, whatever the teacher says of it.

A prior has its gradient in closed form. Going through autograd would cost more than the backward pass of a small
teacher, and the engine's yardstick is the teacher's own pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Prior(Protocol):
    """One number for each input, to be made small, and its gradient."""

    def value(self, inputs: Tensor) -> Tensor:
        """Inputs (N, *shape) to (N,), differentiable."""

    def add_gradient(self, inputs: Tensor, weight: float, gradient: Tensor) -> None:
        """Adds `weight` times the gradient of the sum of `value` to `gradient` (N, *shape), in place."""


class TotalVariation:
    """Anisotropic total variation of images (Braun et al. 2024, Section 3; Rudin, Osher, Fatemi 1992).

    Mean over channels and neighbours of the absolute vertical difference, plus that of the horizontal one. An
    axis of length one has no neighbours and adds nothing.
    """

    def value(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) to (N,)."""
        total = inputs.new_zeros(len(inputs))
        for axis in (2, 3):
            if inputs.shape[axis] > 1:
                total = total + inputs.diff(dim=axis).abs().mean(dim=(1, 2, 3))
        return total

    def add_gradient(self, inputs: Tensor, weight: float, gradient: Tensor) -> None:
        """Adds the gradient, in place: the signs of the differences, divided by their number."""
        for axis in (2, 3):
            length = inputs.shape[axis]
            if length == 1:
                continue
            signs = inputs.diff(dim=axis).sign_()  # (N, C, H - 1, W) or (N, C, H, W - 1)
            scale = weight / signs[0].numel()
            gradient.narrow(axis, 1, length - 1).add_(signs, alpha=scale)
            gradient.narrow(axis, 0, length - 1).sub_(signs, alpha=scale)


class IsotropicTotalVariation:
    """Isotropic total variation of images (Rudin, Osher, Fatemi, Physica D 1992).

    Mean over channels and pixels of the length of the vector (difference to the pixel below, difference to the pixel
    on the right); at the lower and the right edge the missing difference is zero. It does not favour edges along the
    axes, as the anisotropic one does.
    """

    def value(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) to (N,)."""
        lengths: Tensor = torch.linalg.vector_norm(torch.stack(_forward_differences(inputs)), dim=0)  # (N, C, H, W)
        return lengths.mean(dim=(1, 2, 3))

    def add_gradient(self, inputs: Tensor, weight: float, gradient: Tensor) -> None:
        """Adds the gradient, in place: unit vectors, at the pixel with minus and at its neighbours with plus."""
        differences = _forward_differences(inputs)
        length = torch.hypot(*differences).clamp_min_(torch.finfo(inputs.dtype).tiny)
        scale = weight / inputs[0].numel()
        for axis, difference in zip((2, 3), differences, strict=True):
            unit = difference.div_(length)  # (N, C, H, W), zero at the far edge
            gradient.sub_(unit, alpha=scale)
            count = inputs.shape[axis] - 1
            gradient.narrow(axis, 1, count).add_(unit.narrow(axis, 0, count), alpha=scale)


def _forward_differences(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """To the pixel below and to that on the right, zero at the edge: twice (N, C, H, W)."""
    down, right = torch.zeros_like(inputs), torch.zeros_like(inputs)
    for axis, difference in ((2, down), (3, right)):
        count = inputs.shape[axis] - 1
        difference.narrow(axis, 0, count).copy_(inputs.diff(dim=axis))
    return down, right


class MeanSquare:
    """The L2 prior: the mean square of an input's normalised values (Mahendran, Vedaldi, CVPR 2015, with alpha 2)."""

    def value(self, inputs: Tensor) -> Tensor:
        """(N, *shape) to (N,)."""
        return inputs.square().flatten(1).mean(dim=1)

    def add_gradient(self, inputs: Tensor, weight: float, gradient: Tensor) -> None:
        """Adds the gradient, in place: twice the values, divided by their number."""
        gradient.add_(inputs, alpha=2 * weight / inputs[0].numel())


@dataclass(frozen=True)
class OutOfRange:
    """The range prior: the mean square of what lies outside the range that inputs are known to have.

    Attributes:
        low: least normalised value, (C, 1, 1) or (D,).
        high: greatest, likewise.
    """

    low: Tensor
    high: Tensor

    def value(self, inputs: Tensor) -> Tensor:
        """(N, *shape) to (N,)."""
        return self._excess(inputs).square().flatten(1).mean(dim=1)

    def add_gradient(self, inputs: Tensor, weight: float, gradient: Tensor) -> None:
        """Adds the gradient, in place: twice the excess, divided by the number of values."""
        gradient.add_(self._excess(inputs), alpha=2 * weight / inputs[0].numel())

    def _excess(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.clamp(self.low, self.high)
