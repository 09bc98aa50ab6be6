"""Putting tensors from a file into a network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn


def put_into(network: nn.Module, tensors: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Gives a network the weights of a file, all of them and no others.

    A state dict in memory says of which version each module's form is, a file of tensors does not; torchvision's
    MNASNet refuses one that does not say. What fits a network's keys and shapes is of the form that the network has.

    Args:
        network: may be without memory, with `assign`.
        tensors: by the keys of its state dict.
        assign: whether they become its own, instead of being copied.

    Raises:
        RuntimeError: if keys or shapes differ.
    """
    state = OrderedDict(tensors)
    state._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    network.load_state_dict(state, strict=True, assign=assign)
