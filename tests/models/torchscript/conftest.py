"""TorchScript files as users have them, made without torch's deprecation warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

Save = Callable[..., Path]


class Small(nn.Module):
    """A convolution with BatchNorm and dropout, then what is asked for: (N, 1, 6, 6) to (N, 3)."""

    def __init__(self, tail: str = "none") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5), nn.Flatten())
        self.head = nn.Linear(64, 3)
        self.body[1].running_mean.fill_(0.3)
        tails = {"softmax": nn.Softmax(1), "log_softmax": nn.LogSoftmax(1), "sigmoid": nn.Sigmoid()}
        self.tail = tails.get(tail, nn.Identity())

    def logits(self, rows: Tensor) -> Tensor:
        return self.head(self.body(rows))

    def forward(self, rows: Tensor) -> Tensor:
        return self.tail(self.head(self.body(rows)))


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a module as TorchScript: scripted, or traced with an example."""

    def write(module: nn.Module, example: Tensor | None = None, *, frozen: bool = False) -> Path:
        path = tmp_path / "model.pt"
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            script = (
                torch.jit.script(module) if example is None else torch.jit.trace(module, example, check_trace=False)
            )
            torch.jit.save(torch.jit.freeze(script) if frozen else script, path)
        return path

    return write
