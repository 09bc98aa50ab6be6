"""A moving average of a student's weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average:
    """The exponential moving average of a network's weights and buffers, step after step.

    In step t the decay is min(decay, (1 + t) / (10 + t)), as in TensorFlow's `ExponentialMovingAverage`: the first
    steps, which start from random weights, are forgotten whatever the decay.

    Args:
        network: what is averaged.
        decay: in (0, 1); at 0.999 about the last thousand steps count.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network = network
        self._decay = decay
        self._model = AveragedModel(network, multi_avg_fn=self._blend, use_buffers=True)

    @property
    def student(self) -> nn.Module:
        """The network with averaged weights."""
        module: nn.Module = self._model.module
        return module

    def update(self) -> None:
        """Takes the network's weights into the average."""
        self._model.update_parameters(self._network)

    def _blend(self, averaged: Any, current: Any, steps: Tensor | int) -> None:
        count = int(self._model.n_averaged)  # on the CPU, unlike `steps`
        blend: Any = get_ema_multi_avg_fn(min(self._decay, (1 + count) / (10 + count)))  # type: ignore[no-untyped-call]
        blend(averaged, current, steps)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return self._model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._model.load_state_dict(state)
