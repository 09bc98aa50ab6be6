"""Where samples may lie: anywhere, or within the range that raw inputs are known to have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cake_cli.spec import InputSpec

ASSUMED_RANGE = (-2.0, 2.0)
"""Where next to all values of mean zero and variance one lie, as which inputs of an unknown range are taken."""


def normalised_range(spec: InputSpec, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Least and greatest normalised value of each channel, (C, 1, 1) for images and (D,) for vectors.

    Raises:
        ValueError: if the range of raw values is not known.
    """
    if spec.range is None:
        raise ValueError("the input has no range")
    ones = (1,) * (len(spec.shape) - 1)
    mean, std = (torch.tensor(values).expand(spec.channels) for values in (spec.mean, spec.std))  # (C,)
    low, high = ((bound - mean) / std for bound in spec.range)
    return low.reshape(-1, *ones).to(device), high.reshape(-1, *ones).to(device)


def exposed_range(spec: InputSpec) -> tuple[Tensor, Tensor]:
    """Between what `exposed` starting points lie: the range of inputs, or, where it is not known, `ASSUMED_RANGE`."""
    if spec.range_is_known:
        return normalised_range(spec)
    low, high = (torch.full((spec.channels, 1, 1), bound) for bound in ASSUMED_RANGE)
    return low, high


class Space(Protocol):
    """What a step moves, and the inputs that it stands for.

    A step moves *positions* (N, *shape). All that is written is written in place, and nothing waits for the device.
    """

    def enter(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of starting points (N, *shape), and the inputs; they may be one tensor."""

    def pull_back(self, inputs: Tensor, gradient: Tensor) -> None:
        """Turns a gradient in the inputs into one in the positions."""

    def settle(self, positions: Tensor, inputs: Tensor) -> None:
        """After positions were moved: brings them back where they must be, and writes the inputs."""


class Anywhere:
    """No bounds, as in the paper: positions are the inputs."""

    def enter(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """The starting points, twice."""
        return starts, starts

    def pull_back(self, inputs: Tensor, gradient: Tensor) -> None:
        """Nothing to do."""

    def settle(self, positions: Tensor, inputs: Tensor) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class Clamped:
    """Inputs are projected onto the range after each step: projected gradient descent.

    Attributes:
        low: least normalised value, (C, 1, 1) or (D,).
        high: greatest, likewise.
    """

    low: Tensor
    high: Tensor

    def enter(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """The starting points, projected."""
        inputs = starts.clamp(self.low, self.high)
        return inputs, inputs

    def pull_back(self, inputs: Tensor, gradient: Tensor) -> None:
        """Nothing to do: positions are the inputs."""

    def settle(self, positions: Tensor, inputs: Tensor) -> None:
        """Projects."""
        inputs.clamp_(self.low, self.high)


@dataclass(frozen=True)
class Squashed:
    """Inputs are ``x = mid + half · tanh((v - mid) / half)`` of positions v, and so inside the range.

    The change of variables of Carlini and Wagner (S&P 2017), scaled so that x = v and dx/dv = 1 in the middle of the
    range: step sizes keep their meaning there. The gradient in v is that in x times ``1 - ((x - mid) / half)²``.

    Attributes:
        low: least normalised value, (C, 1, 1) or (D,).
        high: greatest, likewise.
    """

    low: Tensor
    high: Tensor

    def enter(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """The starting points as positions, and what they stand for."""
        inputs = torch.empty_like(starts)
        self.settle(starts, inputs)
        return starts, inputs

    def pull_back(self, inputs: Tensor, gradient: Tensor) -> None:
        """The chain rule, in closed form."""
        relative = (inputs - self._middle) / self._half
        gradient.mul_(1 - relative.square_())

    def settle(self, positions: Tensor, inputs: Tensor) -> None:
        """Writes the inputs."""
        inputs.copy_(((positions - self._middle) / self._half).tanh_().mul_(self._half).add_(self._middle))

    @property
    def _middle(self) -> Tensor:
        return (self.low + self.high) / 2

    @property
    def _half(self) -> Tensor:
        return (self.high - self.low) / 2
