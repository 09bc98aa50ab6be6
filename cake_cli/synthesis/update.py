"""How a gradient becomes a step on the samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Update(Protocol):
    """A rule that moves samples against a gradient. It keeps no state itself, so that sets can share it."""

    def begin(self, inputs: Tensor) -> dict[str, Tensor]:
        """The state of samples (N, *shape) before their first step."""

    def apply(self, inputs: Tensor, gradient: Tensor, step_sizes: Tensor, state: dict[str, Tensor]) -> None:
        """Moves the samples, in place, without waiting for the device.

        Args:
            inputs: (N, *shape), changed.
            gradient: (N, *shape), may be changed.
            step_sizes: (N, 1, ...).
            state: of `begin`, changed in place.
        """


@dataclass(frozen=True)
class Sgd:
    """Plain gradient descent, x := x - eta · gradient, whose steps can be bounded.

    Attributes:
        max_update: largest root mean square change of a sample in one step, in normalised units; a greater step
            is shortened to it. 0 for no bound, as in the paper.
    """

    max_update: float = 0.0

    def begin(self, inputs: Tensor) -> dict[str, Tensor]:
        """Nothing to keep."""
        return {}

    def apply(self, inputs: Tensor, gradient: Tensor, step_sizes: Tensor, state: dict[str, Tensor]) -> None:
        """Moves the samples, in place."""
        if self.max_update == 0:
            inputs.addcmul_(gradient, step_sizes, value=-1)
            return
        axes = tuple(range(1, gradient.dim()))
        size = torch.linalg.vector_norm(gradient, dim=axes, keepdim=True)  # (N, 1, ...)
        largest = self.max_update * (gradient[0].numel() ** 0.5)
        inputs.addcmul_(gradient, torch.minimum(step_sizes, largest / size.clamp_min(1e-30)), value=-1)
