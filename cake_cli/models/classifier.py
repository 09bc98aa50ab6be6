"""The one contract for every teacher and student: normalised rows in, logits out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from cake_cli.hardware import Hardware
from cake_cli.models.opened import OutputKind
from cake_cli.spec import InputSpec

Batching = Literal["direct", "vmap", "loop", "padded"]
"""How many rows are computed: as the file is, as one row mapped over the batch, row by row, or in batches of
the one size that the file takes, the last one padded."""

RUNNING = ("running_mean", "running_var", "num_batches_tracked")
"""What torch calls the running figures of a batch normalisation."""


@dataclass(frozen=True)
class Classifier:
    """A frozen classifier in eval mode.

    Calling it maps float32 (N, *spec.shape) in the normalised space to (N, K) logits, for any N, rows
    independent of each other. It is differentiable in its input, unless `no_gradient` says why not.
    """

    module: nn.Module
    spec: InputSpec
    classes: int
    """K, at least 2."""
    name: str
    """What to call it: the file's name."""
    sha256: str
    """Hash of the file it was read from."""
    class_names: tuple[str, ...] | None = None
    output_kind: OutputKind = "logits"
    """What the file ended in before softmax and its like were taken off."""
    converter: str = "torch"
    """How the file became a module."""
    batching: Batching = "direct"
    facts: dict[str, str] = field(default_factory=dict)
    """What the file says of itself."""
    mends: tuple[str, ...] = ()
    """What had to be mended in it."""
    checks: tuple[str, ...] = ()
    """What was measured on load."""
    check_seconds: float = 0.0
    """How long that took."""
    architecture: str | None = None
    """Name of the student architecture, where the file is a student of ours."""
    same_as: str | None = None
    """What ``--student`` takes to build the same network, where that is known."""

    no_gradient: str | None = None
    """Why it is not differentiable: a black box, which can only be asked."""
    instead: str | None = None
    """Which model would have a gradient."""
    seconds_a_row: float | None = None
    """How long a row took, where every row that is asked may cost: then none is asked to time a run."""
    noise: str | None = None
    """What was seen of a black box whose answers to the same rows differ."""
    answers: Tensor | None = None
    """Its logits (3, K) to the rows of the check, where what answers may change and did not meanwhile."""

    def __call__(self, rows: Tensor) -> Tensor:
        """Logits (N, K) of normalised rows (N, *spec.shape)."""
        logits: Tensor = self.module(rows)
        return logits

    def on(self, hardware: Hardware) -> Classifier:
        """The same classifier on a device."""
        return replace(self, module=hardware.place(self.module))

    @property
    def parameters(self) -> int:
        """How many weights there are; running figures of batch normalisation, which nothing learns, are none.

        Converted modules may hold weights as buffers.
        """
        state = self.module.state_dict()
        weights = {id(tensor): tensor for name, tensor in state.items() if name.rpartition(".")[2] not in RUNNING}
        return sum(tensor.numel() for tensor in weights.values())

    def names(self) -> tuple[str, ...]:
        """The class names, or the class numbers as text."""
        return self.class_names or tuple(str(index) for index in range(self.classes))


class _Scaled(nn.Module):
    """Holds mean and std, shaped to go with rows (N, *shape)."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        ones = (1,) * (len(spec.shape) - 1)
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(-1, *ones), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).reshape(-1, *ones), persistent=False)


class Denormalise(_Scaled):
    """Normalised values to the raw ones that the file takes: z · std + mean."""

    def forward(self, rows: Tensor) -> Tensor:
        """(N, *shape) normalised to (N, *shape) raw."""
        return rows * self.get_buffer("std") + self.get_buffer("mean")


class Normalise(_Scaled):
    """Raw values to normalised ones: (raw - mean) / std."""

    def forward(self, rows: Tensor) -> Tensor:
        """(N, *shape) raw to (N, *shape) normalised."""
        return (rows - self.get_buffer("mean")) / self.get_buffer("std")


class Layout(nn.Module):
    """Rows in our order (C, H, W) to the file's: channels last, flat, or with axes of length one."""

    def __init__(self, file_shape: tuple[int, ...], *, channels_last: bool) -> None:
        super().__init__()
        self.file_shape = file_shape
        self.channels_last = channels_last

    def forward(self, rows: Tensor) -> Tensor:
        """(N, *shape) to (N, *file_shape)."""
        if self.channels_last:
            rows = rows.permute(0, 2, 3, 1)  # (N, H, W, C)
        return rows.reshape(rows.shape[0], *self.file_shape)


class Batched(nn.Module):
    """Any number of rows through a module that takes one at a time, or takes no batch axis at all."""

    def __init__(self, module: nn.Module, batching: Batching, *, has_batch_axis: bool = True) -> None:
        super().__init__()
        self.module = module
        self.batching = batching
        self.has_batch_axis = has_batch_axis

    def forward(self, rows: Tensor) -> Tensor:
        """(N, *file_shape) to (N, K)."""
        if self.batching == "direct":
            logits: Tensor = self.module(rows)
            return logits
        if self.batching == "vmap":
            mapped: Callable[[Tensor], Tensor] = torch.func.vmap(self._one, randomness="error")
            return mapped(rows)
        return torch.stack([self._one(row) for row in rows])

    def _one(self, row: Tensor) -> Tensor:
        logits: Tensor = self.module(row.unsqueeze(0) if self.has_batch_axis else row)
        return logits.reshape(-1)  # (K,)


class InBatchesOf(nn.Module):
    """Any number of rows through a module that takes exactly `size` at a time."""

    def __init__(self, module: nn.Module, size: int) -> None:
        super().__init__()
        self.module = module
        self.size = size

    def forward(self, rows: Tensor) -> Tensor:
        """(N, *file_shape) to (N, K)."""
        count = len(rows)
        padding = rows[-1:].expand(-count % self.size, *rows.shape[1:])
        parts = torch.split(torch.cat([rows, padding]), self.size)
        return torch.cat([self.module(part) for part in parts])[:count]


class _Floored(nn.Module):
    """Holds the least probability that is told from zero."""

    def __init__(self, floor: float = 0.0) -> None:
        super().__init__()
        self.floor = floor

    def least(self, dtype: torch.dtype) -> float:
        """The floor, or the least positive number of a type."""
        return max(self.floor, torch.finfo(dtype).tiny)


class LogOf(_Floored):
    """Probabilities to log-probabilities, which serve as logits; zeros stay finite."""

    def forward(self, probabilities: Tensor) -> Tensor:
        """(N, K) to (N, K)."""
        return probabilities.clamp_min(self.least(probabilities.dtype)).log()


class HardLabels(nn.Module):
    """Logits to those of the most probable class alone: 0 for it, and too little to count for all others."""

    def forward(self, logits: Tensor) -> Tensor:
        """(N, K) to (N, K)."""
        return logits_of_labels(logits.argmax(dim=1), logits.shape[1])


def logits_of_labels(labels: Tensor, classes: int) -> Tensor:
    """Labels (N,) as logits (N, K) whose softmax is 1 for the label."""
    never = torch.full((len(labels), classes), math.log(torch.finfo(torch.float32).tiny), device=labels.device)
    return never.scatter(1, labels[:, None], 0.0)


class LogitOf(_Floored):
    """The probability of the second of two classes, or of each class apart, to its logit; 0 and 1 stay finite."""

    def forward(self, probability: Tensor) -> Tensor:
        """(N, 1) to (N, 1), or (N, K) to (N, K)."""
        tiny = self.least(probability.dtype)
        return probability.clamp_min(tiny).log() - (1 - probability).clamp_min(tiny).log()


class TwoClasses(nn.Module):
    """One logit of a binary classifier, (N, 1), to two: zero for the first class, it for the second."""

    def forward(self, logit: Tensor) -> Tensor:
        """(N, 1) to (N, 2)."""
        return torch.cat([torch.zeros_like(logit), logit], dim=1)  # (N, 2)
