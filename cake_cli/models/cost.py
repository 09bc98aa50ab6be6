"""What a model holds and costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from cake_cli.models.classifier import Classifier


@dataclass(frozen=True)
class Size:
    """What a network holds and costs."""

    parameters: int
    multiply_adds: int
    """Of one row's forward pass."""
    bytes: int
    """Of its file, or of its weights in one."""


def size_of(model: Classifier, path: Path) -> Size:
    """What an opened model holds and costs, while it is still on the CPU."""
    path = path / "student.safetensors" if (path / "student.safetensors").is_file() else path
    tensors = model.module.state_dict().values()
    stored = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.zeros(1, *model.spec.shape))
    return Size(model.parameters, counter.get_total_flops() // 2, path.stat().st_size if path.is_file() else stored)
