"""What training needs to go on: a file that is whole or not there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from cake_cli.errors import DataError
from cake_cli.storage import replacing

SHARE = 0.05
"""Of a training's time, what writing checkpoints may take: where epochs are short, not each leaves one."""


class Stateful(Protocol):
    """Something with a state to keep: network, optimizer, schedule, average."""

    def state_dict(self) -> dict[str, Any]:
        """The state, of tensors and plain values."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Takes a state over."""


def save(path: Path, parts: Mapping[str, Stateful], epoch: int) -> None:
    """Writes the states at the end of an epoch.

    Raises:
        EnvironmentFault: if the disk is full or refuses.
    """
    state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
    with replacing(path) as temporary, temporary.open("wb") as stream:  # given a name, torch would not say what failed
        torch.save(state | {"epoch": epoch}, stream)


@dataclass
class Keeper:
    """Writes the checkpoint of a training: after its first and last epoch, between as often as `SHARE` allows."""

    path: Path
    cost: float = 0.0
    """Seconds that the last writing took."""
    ended: float = 0.0
    """When it did, by the monotonic clock."""

    def after_epoch(self, parts: Mapping[str, Stateful], epoch: int, *, last: bool) -> None:
        """Writes the states at the end of an epoch if that is due; raises as `save`."""
        started = time.monotonic()
        if not last and self.cost > SHARE * (started - self.ended):
            return
        save(self.path, parts, epoch)
        self.ended = time.monotonic()
        self.cost = self.ended - started


def restore(path: Path, parts: Mapping[str, Stateful]) -> int:
    """Takes over the states of a checkpoint, if there is one; returns how many epochs are done.

    Raises:
        DataError: if the file is damaged, or of another network.
    """
    if not path.exists():
        return 0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return int(state["epoch"])
    except Exception as fault:
        raise DataError(
            f"the checkpoint {path} is damaged: {fault}", f"remove {path}; training starts again"
        ) from fault


def carry_on(path: Path, parts: Mapping[str, Stateful]) -> None:
    """Takes over the states of some parts from the checkpoint of an earlier training.

    Raises:
        DataError: if the file is lost or damaged, or of another network.
    """
    if not path.exists():
        raise DataError(f"the checkpoint {path}, from which training goes on, is lost", "start the run again")
    restore(path, parts)
