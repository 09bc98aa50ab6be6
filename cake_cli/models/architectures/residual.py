"""Residual networks that torchvision does not have: the ResNet-4 of the paper and CIFAR's Wide ResNets."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

SMALL_IMAGE = 64
"""Below this many pixels a network gets a 3x3 stride-1 stem and no pooling behind it, as usual on CIFAR."""


def is_small(shape: tuple[int, ...]) -> bool:
    """Whether an image (C, H, W) is below `SMALL_IMAGE` in both directions."""
    return max(shape[1:]) < SMALL_IMAGE


def _stem(channels: int, features: int, *, small: bool) -> nn.Conv2d:
    if small:
        return nn.Conv2d(channels, features, 3, stride=1, padding=1, bias=False)
    return nn.Conv2d(channels, features, 7, stride=2, padding=3, bias=False)


def _draw(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def resnet4(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The ResNet-4 of the CAKE paper (Section 5): one basic block a stage, widths 32 to 256."""
    from torchvision.models.resnet import BasicBlock

    widths = (32, 64, 128, 256)
    small = is_small(shape)
    layers: list[nn.Module] = [_stem(shape[0], widths[0], small=small), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    if not small:
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    layers.append(BasicBlock(widths[0], widths[0]))
    for before, after in pairwise(widths):
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=2, bias=False), nn.BatchNorm2d(after))
        layers.append(BasicBlock(before, after, stride=2, downsample=shortcut))
    return _draw(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)))


class PreActivation(nn.Module):
    """Norm, ReLU and 3x3 convolution, twice, around a shortcut (Zagoruyko & Komodakis 2016, Figure 1a)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        changes = before != after or stride != 1
        self.shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False) if changes else None

    def forward(self, features: Tensor) -> Tensor:
        """(N, before, H, W) to (N, after, H / stride, W / stride)."""
        active = F.relu(self.norm1(features))
        moved = self.conv2(F.relu(self.norm2(self.conv1(active))))
        kept = features if self.shortcut is None else self.shortcut(active)
        summed: Tensor = moved + kept
        return summed


def wide_resnet(shape: tuple[int, int, int], classes: int, *, depth: int, width: int) -> nn.Module:
    """WRN-depth-width (Zagoruyko & Komodakis 2016, Table 1): three stages of 16, 32 and 64 times `width` channels.

    The paper's are for 32x32; from 64 pixels on the stem is ResNet's, a 7x7 convolution and pooling.
    """
    small = is_small(shape)
    widths = [16 * width, 32 * width, 64 * width]
    stem: list[nn.Module] = [_stem(shape[0], 16, small=small)]
    if not small:
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    stages: list[nn.Module] = []
    before = 16
    for after, stride in zip(widths, (1, 2, 2), strict=True):
        blocks = [PreActivation(before if index == 0 else after, after, stride if index == 0 else 1)
                  for index in range((depth - 4) // 6)]  # fmt: skip
        stages.append(nn.Sequential(*blocks))
        before = after
    head = [nn.BatchNorm2d(before), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
    return _draw(nn.Sequential(*stem, *stages, *head))
