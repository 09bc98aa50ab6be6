"""Whether weights are those of a network: every key, every shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from cake_cli.errors import ModelFileError

SHOWN = 3


def differences(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str) -> str:
    """Missing, unexpected and mismatched keys, three of each; empty where the weights fit.

    Args:
        wanted: the state dict of the network.
        tensors: the weights. Batch counters, which old files lack, may be missing.
        name: of the network.
    """
    required = [key for key in wanted if not key.endswith("num_batches_tracked")]
    mismatched = [
        f"{key} (file {tuple(tensors[key].shape)}, {name} {tuple(wanted[key].shape)})"
        for key in wanted
        if key in tensors and tensors[key].shape != wanted[key].shape
    ]
    parts = [
        _some("missing", [key for key in required if key not in tensors]),
        _some("unexpected", [key for key in tensors if key not in wanted]),
        _some("mismatched", mismatched),
    ]
    return "; ".join(part for part in parts if part)


def require_floats(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str, path: Path) -> None:
    """Refuses whole numbers, bits and quantised numbers in the place of floats.

    Args:
        wanted: the state dict of the network.
        tensors: the weights, all of whose keys are there.
        name: of the network.
        path: of the weights.

    Raises:
        ModelFileError: with the first such key and its type.
    """
    for key, tensor in tensors.items():
        if wanted[key].is_floating_point() and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelFileError(
                f"{path} holds {key} as {kind}, with which {name} does not compute",
                "give the weights as floating-point numbers, as they were before they were quantised",
            )


def filled(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that fit as float32, with the batch counters that they lack at zero."""
    state = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    return state | {key: torch.tensor(0) for key in wanted.keys() - tensors.keys()}


def _some(kind: str, keys: Iterable[str]) -> str:
    listed = list(keys)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return f"{len(listed)} {kind}: {', '.join(listed[:SHOWN])}{more}" if listed else ""
