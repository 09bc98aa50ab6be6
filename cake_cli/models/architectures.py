"""Student networks by name, each adapted to the input: channels, small images, number of classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from torch import nn
from torchvision.models import resnet

from cake_cli.catalog import base_name
from cake_cli.errors import UsageError
from cake_cli.spec import format_shape

SMALL_IMAGE = 64
"""Below this many pixels a ResNet gets a 3x3 stride-1 stem and no pooling, as usual on CIFAR."""

LENET_SIZES = range(28, 37)
"""Heights and widths for which LeNet-5's third 5x5 convolution sees between 4 and 6 pixels."""

_BLOCKS: dict[str, tuple[type[resnet.BasicBlock | resnet.Bottleneck], list[int], int, int]] = {
    "resnet18": (resnet.BasicBlock, [2, 2, 2, 2], 1, 64),
    "resnet34": (resnet.BasicBlock, [3, 4, 6, 3], 1, 64),
    "resnet50": (resnet.Bottleneck, [3, 4, 6, 3], 1, 64),
    "resnet101": (resnet.Bottleneck, [3, 4, 23, 3], 1, 64),
    "resnet152": (resnet.Bottleneck, [3, 8, 36, 3], 1, 64),
    "resnext50_32x4d": (resnet.Bottleneck, [3, 4, 6, 3], 32, 4),
    "resnext101_32x8d": (resnet.Bottleneck, [3, 4, 23, 3], 32, 8),
    "resnext101_64x4d": (resnet.Bottleneck, [3, 4, 23, 3], 64, 4),
    "wide_resnet50_2": (resnet.Bottleneck, [3, 4, 6, 3], 1, 128),
    "wide_resnet101_2": (resnet.Bottleneck, [3, 4, 23, 3], 1, 128),
}


def build_student(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """A freshly initialised student; draws its weights from torch's global generator.

    Args:
        name: a name of `cake_cli.catalog.STUDENTS`, with options after a colon where it takes some.
        shape: (C, H, W) or (D,).
        classes: K, the number of logits.

    Returns:
        A module that maps float32 (N, *shape) to (N, K).

    Raises:
        UsageError: if there is no such architecture, its options are wrong, or the input does not fit.
    """
    base = base_name(name)
    options = name.partition(":")[2]
    if options and base != "mlp":
        raise UsageError(f"{base} takes no options, not {options!r}", f"--student {base}")
    if base == "mlp":
        return _mlp(shape, classes, _hidden_sizes(options))
    if base == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
    if len(shape) != 3:
        raise UsageError(f"{name} is for images, and the teacher takes {format_shape(shape)}", "--student mlp")
    image = (shape[0], shape[1], shape[2])
    builders: dict[str, Callable[[], nn.Module]] = {
        "cnn": lambda: _cnn(image[0], classes),
        "lenet5": lambda: _lenet(name, image, classes, (6, 16, 120, 84)),
        "lenet5-half": lambda: _lenet(name, image, classes, (3, 8, 60, 42)),
        "resnet4": lambda: _resnet4(image, classes),
    }
    return builders[base]() if base in builders else _resnet(base, image, classes)


def _hidden_sizes(options: str) -> list[int]:
    try:
        sizes = [int(size) for size in options.split(",")] if options else [256, 256]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1 or max(sizes) > 65_536:
        raise UsageError(f"mlp takes sizes of hidden layers, not {options!r}", "--student mlp:256,256")
    return sizes


def _mlp(shape: tuple[int, ...], classes: int, hidden: list[int]) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise([math.prod(shape), *hidden]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], classes))


def _cnn(channels: int, classes: int) -> nn.Module:
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


def _lenet(name: str, shape: tuple[int, int, int], classes: int, widths: tuple[int, int, int, int]) -> nn.Module:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling; smaller maps of 28x28 inputs are averaged."""
    if shape[1] not in LENET_SIZES or shape[2] not in LENET_SIZES:
        raise UsageError(
            f"{name} takes images of {LENET_SIZES.start} to {LENET_SIZES.stop - 1} pixels, "
            f"and the teacher takes {format_shape(shape)}",
            "--student cnn",
        )
    first, second, third, hidden = widths
    side = [((size - 4) // 2 - 4) // 2 for size in shape[1:]]
    return nn.Sequential(
        *[nn.Conv2d(shape[0], first, 5), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(first, second, 5), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(second, third, min(5, *side)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        *[nn.Linear(third, hidden), nn.ReLU(), nn.Linear(hidden, classes)],
    )


def _stem(channels: int, features: int, *, small: bool) -> nn.Conv2d:
    if small:
        return nn.Conv2d(channels, features, 3, stride=1, padding=1, bias=False)
    return nn.Conv2d(channels, features, 7, stride=2, padding=3, bias=False)


def _resnet(name: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet and its relatives (He et al. 2016, Xie et al. 2017, Zagoruyko & Komodakis 2016) from torchvision."""
    block, layers, groups, width_per_group = _BLOCKS[name]
    network = resnet.ResNet(block, layers, classes, groups=groups, width_per_group=width_per_group)
    small = max(shape[1:]) < SMALL_IMAGE
    if small or shape[0] != 3:
        network.conv1 = _stem(shape[0], 64, small=small)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    if small:
        network.maxpool = nn.Identity()  # type: ignore[assignment]
    return network


def _resnet4(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The ResNet-4 of the CAKE paper (Section 5): one basic block a stage, widths 32 to 256."""
    widths = (32, 64, 128, 256)
    small = max(shape[1:]) < SMALL_IMAGE
    layers: list[nn.Module] = [_stem(shape[0], widths[0], small=small), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    if not small:
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    layers.append(resnet.BasicBlock(widths[0], widths[0]))
    for before, after in pairwise(widths):
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=2, bias=False), nn.BatchNorm2d(after))
        layers.append(resnet.BasicBlock(before, after, stride=2, downsample=shortcut))
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
