"""Which optimizer a student learns by: SGD for convolutional networks, AdamW for those with layer normalisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from cake_cli.config import OptimizerName

BETAS = (0.9, 0.99)
"""Of AdamW; runs are short, so the second moment forgets faster than torch's default."""


@dataclass(frozen=True)
class UpdateRule:
    """An optimizer and its settings."""

    name: Literal["sgd", "adamw"]
    lr: float
    """Peak learning rate."""
    weight_decay: float
    momentum: float = 0.9
    """Of SGD."""

    @staticmethod
    def for_network(
        network: nn.Module,
        name: OptimizerName = "auto",
        *,
        lr: float | None = None,
        weight_decay: float | None = None,
        momentum: float = 0.9,
    ) -> UpdateRule:
        """The rule for a student.

        Args:
            network: the student, of which ``auto`` looks at the normalisation: transformers and ConvNeXt, which
                have layer normalisation, hardly learn by SGD with a rate that suits a ResNet.
            name: of the optimizer.
            lr: peak learning rate; by default that of the optimizer.
            weight_decay: by default that of the optimizer.
            momentum: of SGD.
        """
        if name == "auto":
            name = "adamw" if any(isinstance(part, nn.LayerNorm) for part in network.modules()) else "sgd"
        rule = replace(DEFAULTS[name], momentum=momentum)
        rule = rule if lr is None else replace(rule, lr=lr)
        return rule if weight_decay is None else replace(rule, weight_decay=weight_decay)

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a network's weights; a step is one kernel where the device has it."""
        weights, decay = list(network.parameters()), self.weight_decay
        fused = all(weight.device.type in ("cpu", "cuda") for weight in weights)
        if self.name == "adamw":
            return torch.optim.AdamW(weights, lr=self.lr, betas=BETAS, weight_decay=decay, fused=fused)
        return torch.optim.SGD(weights, lr=self.lr, momentum=self.momentum, weight_decay=decay, fused=fused)


DEFAULTS = {"sgd": UpdateRule("sgd", 0.1, 5e-4), "adamw": UpdateRule("adamw", 3e-3, 1e-2)}
