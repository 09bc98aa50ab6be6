"""Networks of a few layers: linear, MLP, CNN, LeNet-5."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import nn

from cake_cli.catalog import WHAT_FITS
from cake_cli.errors import UsageError
from cake_cli.spec import format_shape

LENET_SIZES = range(28, 37)
"""Heights and widths for which LeNet-5's third 5x5 convolution sees between 4 and 6 pixels."""
LENET_WIDTHS = {"lenet5": (6, 16, 120, 84), "lenet5-half": (3, 8, 60, 42)}
"""Channels of the three convolutions and the hidden layer."""


def linear(shape: tuple[int, ...], classes: int) -> nn.Module:
    """One linear layer on (N, *shape)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def mlp(shape: tuple[int, ...], classes: int, hidden: tuple[int, ...]) -> nn.Module:
    """Hidden layers of the given sizes with ReLU, on (N, *shape)."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise([math.prod(shape), *hidden]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], classes))


def cnn(channels: int, classes: int) -> nn.Module:
    """Three 3x3 convolutions of 32, 64 and 128 channels on (N, C, H, W), of any size."""
    return nn.Sequential(
        *[*_convolution(channels, 32), *_convolution(32, 64), _half()],  # (N, 64, H/2, W/2)
        *[*_convolution(64, 128), _half()],  # (N, 128, H/4, W/4)
        *[nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(512, classes)],
    )


def _convolution(channels: int, features: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, features, 3, padding=1, bias=False), nn.BatchNorm2d(features), nn.ReLU()]


def _half() -> nn.Module:
    """Max-pooling to half the size, rounded up, so that a single pixel survives."""
    return nn.MaxPool2d(2, ceil_mode=True)


def lenet(name: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling; smaller maps of 28x28 inputs are averaged.

    Raises:
        UsageError: if the image is not of `LENET_SIZES`.
    """
    if shape[1] not in LENET_SIZES or shape[2] not in LENET_SIZES:
        raise UsageError(
            f"{name} takes images of {LENET_SIZES.start} to {LENET_SIZES.stop - 1} pixels, not {format_shape(shape)}",
            WHAT_FITS,
        )
    first, second, third, hidden = LENET_WIDTHS[name]
    side = [((size - 4) // 2 - 4) // 2 for size in shape[1:]]
    return nn.Sequential(
        *[nn.Conv2d(shape[0], first, 5), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(first, second, 5), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(second, third, min(5, *side)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        *[nn.Linear(third, hidden), nn.ReLU(), nn.Linear(hidden, classes)],
    )
