"""ResNets without training, for `cake bench`: how fast a network is does not depend on what it knows."""

import torch
from torch import nn

from cake_cli.models.architectures import build_student


def resnet18() -> nn.Module:
    """For 3x32x32, ten classes."""
    torch.manual_seed(0)
    return build_student("resnet18", (3, 32, 32), 10)


def resnet34() -> nn.Module:
    """For 3x32x32, ten classes."""
    torch.manual_seed(0)
    return build_student("resnet34", (3, 32, 32), 10)
