"""How a gradient becomes a step on the samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

LEAST_LENGTH = 1e-15
"""Of a gradient that has a direction: of a shorter one the squares are no float32 numbers, nor is its length then."""


class Update(Protocol):
    """A rule that moves samples against a gradient. It keeps no state itself, so that sets can share it."""

    def begin(self, inputs: Tensor) -> dict[str, Tensor]:
        """The state of samples (N, *shape) before their first step: zeros, all of them."""

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
        inputs.addcmul_(gradient, _bounded(step_sizes, gradient, self.max_update), value=-1)


@dataclass(frozen=True)
class Normalised:
    """Gradient descent by steps of a given length, x := x - eta · gradient / rms(gradient), sample by sample.

    How far a sample moves does not hang on how steep the teacher's logits are, so one step size serves all teachers;
    the weights of the objective count only relative to each other.

    Attributes:
        max_update: as in `Sgd`.
    """

    max_update: float = 0.0

    def begin(self, inputs: Tensor) -> dict[str, Tensor]:
        """Nothing to keep."""
        return {}

    def apply(self, inputs: Tensor, gradient: Tensor, step_sizes: Tensor, state: dict[str, Tensor]) -> None:
        """Moves the samples, in place; where the gradient is zero, or next to it (`LEAST_LENGTH`), they stay."""
        length = torch.linalg.vector_norm(gradient, dim=tuple(range(1, gradient.dim())), keepdim=True)
        reach = step_sizes if self.max_update == 0 else step_sizes.clamp(max=self.max_update)
        sizes = reach * (gradient[0].numel() ** 0.5) / length.clamp_min(1e-30)
        sizes = sizes.masked_fill(length < LEAST_LENGTH, 0)
        inputs.addcmul_(gradient, sizes, value=-1)


@dataclass(frozen=True)
class Adam:
    """Adam on the samples (Kingma, Ba, ICLR 2015), one of the reference implementation's two optimisers.

    A value moves by about the step size whatever the length of the gradient, so the weights of the objective count
    only relative to each other.

    Attributes:
        max_update: as in `Sgd`.
        betas: decay of the running means of the gradient and of its square.
        epsilon: keeps the division finite.
    """

    max_update: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def begin(self, inputs: Tensor) -> dict[str, Tensor]:
        """Running means (N, *shape), and the number of steps ()."""
        return {
            "mean": torch.zeros_like(inputs),
            "square": torch.zeros_like(inputs),
            "steps": torch.zeros((), device=inputs.device),
        }

    def apply(self, inputs: Tensor, gradient: Tensor, step_sizes: Tensor, state: dict[str, Tensor]) -> None:
        """Moves the samples, in place."""
        first, second = self.betas
        steps = state["steps"].add_(1)  # on the device: a captured step counts on
        mean = state["mean"].lerp_(gradient, 1 - first)
        square = state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        size = square.div(_one_minus_power(second, steps)).sqrt_().add_(self.epsilon)
        direction = mean.div(_one_minus_power(first, steps)).div_(size)
        inputs.addcmul_(direction, _bounded(step_sizes, direction, self.max_update), value=-1)


def _one_minus_power(base: float, exponent: Tensor) -> Tensor:
    """1 - base^exponent, without cancellation where the power is near 1."""
    return -torch.expm1(exponent * math.log(base))


def _bounded(step_sizes: Tensor, direction: Tensor, max_update: float) -> Tensor:
    """Step sizes (N, 1, ...), shortened where a sample would move by more than `max_update` (root mean square)."""
    if max_update == 0:
        return step_sizes
    length = torch.linalg.vector_norm(direction, dim=tuple(range(1, direction.dim())), keepdim=True)
    largest = max_update * (direction[0].numel() ** 0.5)
    return torch.minimum(step_sizes, largest / length.clamp_min(1e-30))
