"""How a module that does not declare its input wants a row: found by trying, never by guessing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cake_cli.errors import CakeError, ModelFileError
from cake_cli.hardware import in_layout
from cake_cli.models.bounds import bounded_values
from cake_cli.models.opened import OutputKind
from cake_cli.models.scores import Scores, choose_scores
from cake_cli.spec import format_shape, require_row

USUAL_SIDES = (28, 32, 64, 96, 128, 224, 256)
"""Image sizes that are tried to tell the user which ones a module runs on."""
OTHER_SIDES = (*(48, 50, 100, 40, 56, 80, 112, 150, 160, 192, 200, 180, 227, 240, 299, 300, 320, 384, 400, 448, 512),)
"""Those that are tried where none of the usual ones runs."""
SEARCH_SECONDS = 2.0
"""How long sizes are tried."""
TAIL_TOLERANCE = 1e-4
_ENDS: dict[OutputKind, Callable[[Tensor], Tensor]] = {
    "probs": lambda scores: scores.softmax(-1),
    "log-probs": lambda scores: scores.log_softmax(-1),
    "sigmoid": torch.sigmoid,
}


@dataclass(frozen=True)
class Layout:
    """The form in which a module takes a row, and what it returned for one."""

    shape: tuple[int, ...]
    has_batch_axis: bool
    module: nn.Module
    """Returns one tensor."""
    scores: str | None
    """Name of that tensor, where the module has several."""
    tried: int
    """How many rows were tried: 3; 0 is one row without a batch axis; 1, or the file's own batch, that three failed."""

    @property
    def fixed_batch(self) -> int | None:
        """The only batch that the module takes, where it takes no other."""
        return self.tried if self.has_batch_axis and self.tried != 3 else None


Attempt = tuple[tuple[int, ...], int]
"""The form of a row, and how many are tried with a batch axis; 0 is one row without that axis."""


def attempts(shape: tuple[int, ...]) -> list[Attempt]:
    """How (C, H, W) or (D,) may be taken, likely forms first.

    Three rows with a batch axis, one row without, one row with; each as given, channels last, without a
    channel axis of one, and flat.
    """
    forms = [shape]
    if len(shape) == 3:
        forms += [(shape[1], shape[2], shape[0]), *([shape[1:]] if shape[0] == 1 else []), (math.prod(shape),)]
    return [(form, count) for count in (3, 0, 1) for form in dict.fromkeys(forms)]


def traced_attempts(shape: tuple[int, ...]) -> list[Attempt]:
    """The same for the shape of an example that the file was made with, which may or may not hold a batch axis."""
    forms = [(shape[1:], 3), (shape, 0), (shape[1:], 1)] if len(shape) > 1 else [(shape, 0)]
    if len(shape) > 1 and shape[0] not in (0, 1, 3):
        forms.append((shape[1:], shape[0]))
    return [(form, count) for form, count in forms if 1 <= len(form) <= 3]


def find_layout(module: nn.Module, tries: Sequence[Attempt], *, output: str | None = None) -> Layout:
    """The first form of a row that the module maps to scores.

    Args:
        module: takes one tensor.
        tries: from `attempts`.
        output: name of the scores, where there are several outputs.

    Raises:
        ModelFileError: with what the module said to the first form, or what it returned.
        UsageError: if there is no output of that name.
    """
    refusal: CakeError | None = None
    said = ""
    for form, count in tries:
        try:
            return _attempt(module, form, count, output)
        except CakeError as fault:
            refusal = refusal or fault
        except Exception as fault:  # a foreign module fails in any way it likes
            said = said or last_line(fault)
    raise refusal or ModelFileError(
        f"the model does not run on an input of shape {format_shape(tries[0][0])}: {said}",
        "--input-shape C,H,W or D, as it was trained",
    )


def _attempt(module: nn.Module, form: tuple[int, ...], count: int, output: str | None) -> Layout:
    require_row(form)
    with torch.no_grad():
        with bounded_values():
            returned = module(probe(form, count))
        name = choose_scores(returned, output)
        chosen = module if name is None else Scores(module, name)
        scores: Tensor = returned if name is None else chosen(probe(form, count))
    if not scores.is_floating_point():
        raise ModelFileError(
            f"the output is of type {str(scores.dtype).removeprefix('torch.')}: labels, which have no gradient",
            "export the model so that it returns its scores, before the argmax",
        )
    if (
        scores.dim() != 2
        and count
        and scores.shape[:1] == (count,)
        and scores.numel() == count * max(scores.shape[1:], default=1)
    ):
        chosen = OneVector(chosen)
        scores = scores.reshape(count, -1)
    if not (scores.dim() == 1 and count == 0) and (scores.dim() != 2 or scores.shape[0] != max(count, 1)):
        raise ModelFileError(
            f"the output for {max(count, 1)} inputs of {format_shape(form)} has shape {tuple(scores.shape)}, "
            f"not ({max(count, 1)}, classes)",
            "give a classifier; if rows multiply, the input has another size: --input-shape C,H,W",
        )
    if len(form) == 3 and (count <= 1 or not _takes_channels_last(chosen, form, count)):
        chosen = PlainMemory(chosen)
    return Layout(form, count > 0, chosen if count else Flat(chosen), name, count)


def probe(shape: tuple[int, ...], count: int = 1) -> Tensor:
    """Random rows (count, *shape); for a count of 0 one without a batch axis."""
    rows = torch.rand(max(count, 1), *shape, generator=torch.Generator().manual_seed(0))
    return rows if count else rows[0]


def puts_back(kind: OutputKind, bare: nn.Module, whole: nn.Module, layout: Layout) -> bool:
    """Whether the end of `whole` that `bare` lacks gives the same numbers over the classes of each row."""
    rows = probe(layout.shape, layout.tried)
    with torch.no_grad():
        scores, ends = (made.reshape(max(layout.tried, 1), -1) for made in (bare(rows), whole(rows)))
        return torch.allclose(_ENDS[kind](scores), ends, atol=TAIL_TOLERANCE)


def _takes_channels_last(module: nn.Module, form: tuple[int, ...], count: int) -> bool:
    """Whether rows and weights may lie in memory with channels last, as devices like them.

    A ``view`` inside a model forbids it.
    """
    in_layout(module, "channels_last")
    try:
        with torch.no_grad():
            module(probe(form, count).contiguous(memory_format=torch.channels_last))
    except Exception:  # a foreign module fails in any way it likes
        return False
    finally:
        module._apply(_plain)  # type: ignore[no-untyped-call]
    return True


def _plain(tensor: Tensor) -> Tensor:
    """A copy in plain order; ``contiguous`` would leave a tensor of one channel with channels-last strides."""
    return tensor.clone(memory_format=torch.contiguous_format)


class PlainMemory(nn.Module):
    """A module that sees rows, and keeps its weights, in plain memory order, wherever it is moved."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, rows: Tensor) -> Any:
        """The same values, contiguous."""
        return self.module(_plain(rows))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PlainMemory:
        super()._apply(lambda tensor: _plain(fn(tensor)), recurse)  # type: ignore[no-untyped-call]
        return self


class OneVector(nn.Module):
    """Scores (N, K, 1, 1) or (N,) as (N, K)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, rows: Tensor) -> Tensor:
        """(N, *shape) to (N, K)."""
        scores: Tensor = self.module(rows)
        return scores.reshape(scores.shape[0], -1)


class Flat(nn.Module):
    """The scores (1, K) of one row as (K,)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, row: Tensor) -> Tensor:
        """(*shape,) to (K,)."""
        scores: Tensor = self.module(row)
        return scores.reshape(-1)


def sides_that_run(module: nn.Module, channels: int) -> tuple[list[int], bool]:
    """Which image sizes the module maps to one row of scores, as squares of (channels, side, side).

    Returns:
        Those of `USUAL_SIDES`, or the first of `OTHER_SIDES`; and whether all were tried in the time that there is.
    """
    runs: list[int] = []
    start = time.monotonic()
    for side in (*USUAL_SIDES, *OTHER_SIDES):
        if runs and side in OTHER_SIDES:
            break
        if time.monotonic() - start > SEARCH_SECONDS:
            return runs, False
        try:
            find_layout(module, [((channels, side, side), 1)])
        except CakeError:
            continue
        runs.append(side)
    return runs, True


def last_line(fault: BaseException) -> str:
    """The line of an error that says what failed: TorchScript puts a traceback before it and blanks after.

    Where it lost what was said, it still marks the operation.
    """
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("RuntimeError:", "builtins.RuntimeError:", "AssertionError:"))]
    line = (told or lines or [type(fault).__name__])[-1 if told else 0]
    marks = [number for number, text in enumerate(lines) if number and "<--- HERE" in text]
    if marks and line.endswith("Error:"):
        line = f"it fails at {lines[marks[-1] - 1]}"
    return line if len(line) <= 160 else line[:157] + "..."
