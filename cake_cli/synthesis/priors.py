"""Data priors: what an input should look like, whatever the teacher says of it.

A prior has its gradient in closed form. Going through autograd would cost more than the backward pass of a small
teacher, and the engine's yardstick is the teacher's own pass.
"""

from __future__ import annotations

from typing import Protocol

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
