"""What every file format is turned into, before it becomes a `Classifier`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import nn

OutputKind = Literal["logits", "log-probs", "probs", "sigmoid", "labels"]
"""What the file itself ends in. `sigmoid`: one probability for each class or for the second of two."""


@dataclass(frozen=True)
class OpenedModel:
    """A model file as a torch module with the softmax (or its like) at its end taken off.

    The module is in eval mode and frozen, takes float32 (N, *input_shape) in the file's own layout and
    returns float32 (N, K) logits. Whether it honours any N is measured later, in `verify`.
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    """One row as the file states it, without the batch axis: (3, 32, 32), (32, 32, 3), (784,)."""
    output_kind: OutputKind
    """What the file ended in before that was taken off."""
    converter: str
    """How it became a module: ``onnx2torch``, ``interpreter``, ``torchscript``, …"""
    facts: dict[str, str] = field(default_factory=dict)
    """What `inspect` shows of the file: producer, opset, the names and shapes of inputs and outputs."""
    mends: tuple[str, ...] = ()
    """What had to be mended, a short sentence each."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Key-value pairs that the file carries."""
    fixed_batch: int | None = None
    """The batch size that the file declares, where it declares one."""
    same_as: str | None = None
    """What ``--student`` takes to build the same network, where that is known."""
    has_batch_axis: bool = True
    """False where the file takes one row without a batch axis."""
    reference: Callable[[np.ndarray], np.ndarray] | None = None
    """The file run by its own runtime, (N, *input_shape) to (N, K) in terms of `output_kind`; None where
    there is no second opinion. May raise for an N that the file does not take."""
    check_seconds: float = 0.0
    """Spent on comparing the module with its file."""
    no_gradient: str | None = None
    """Why there is no gradient in the input, of a black box; its module then gives what it says, with no end off."""
    instead: str | None = None
    """Which model would have one."""
    answers_may_cost: bool = False
    """Whether each row that is asked may cost something."""
    answers_may_change: bool = False
    """Whether another model may answer tomorrow, under the same name."""
