"""What is measured of a model before it is trusted: batches, rows, finiteness, gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cake_cli.errors import ModelFileError
from cake_cli.models.classifier import Batched, Batching, InBatchesOf
from cake_cli.models.opened import OpenedModel

TOLERANCE = 1e-4
"""Largest difference between two ways to compute the same logits, relative to the largest logit."""

FIRST_STARTS = 3
LARGE_ROW = 100_000
"""Values of a row from which two starts are tried first: a network for such images takes its time."""
"""Rows that the gradient is first measured on, one of each kind; where one of them has none, all are tried."""

SCALE = "give the scale of its inputs: --mean and --std, or --input-range"

_RETRY = "convert or export the model again from its framework, in eval mode, with a symbolic batch"


@dataclass(frozen=True)
class Measured:
    """What a model does, as measured."""

    module: nn.Module
    """The model with any number of rows."""
    batching: Batching
    outputs: Tensor
    """(3, K): what came out for three random rows."""
    checks: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What the user is to know in any case."""
    constant: bool = True
    """Whether the same input had the same answer twice; False where that was not looked at."""
    seconds_a_row: float = 0.0


def probe_rows(shape: tuple[int, ...], count: int, *, seed: int = 0) -> Tensor:
    """Random rows (count, *shape): normal, uniform, and smooth ones in turn."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, *shape, generator=generator)
    rows[1::3] = torch.rand(rows[1::3].shape, generator=generator)
    rows[2::3] = rows[2::3].mean(dim=-1, keepdim=True).expand_as(rows[2::3]) * shape[-1] ** 0.5
    return rows


def deviation(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference, relative to the largest magnitude of `second` (at least 1e-3)."""
    return float((first - second).abs().max() / second.abs().max().clamp_min(1e-3))


def measure_rows(opened: OpenedModel, rows: Tensor) -> Measured:
    """Finds the way in which the module computes any number of rows right.

    Args:
        opened: the model.
        rows: three rows (3, *input_shape) in the file's own layout and scale.

    Raises:
        ModelFileError: if rows depend on each other, the output is not (rows, classes), or not finite.
    """
    if opened.fixed_batch is not None and opened.fixed_batch > 1:
        padded = InBatchesOf(opened.module, opened.fixed_batch)
        found = measure_rows(replace(opened, module=padded, fixed_batch=None), rows)
        note = f"takes {opened.fixed_batch} rows at a time: the last batch is padded"
        return replace(found, batching="padded", checks=(*found.checks, note))
    with torch.no_grad():
        single, fault = _attempt(Batched(opened.module, "loop", has_batch_axis=opened.has_batch_axis), rows)
        direct, direct_fault = _attempt(opened.module, rows) if opened.has_batch_axis else (None, None)
    if single is None and len(shapes := _shapes(opened, rows)) > 1:
        raise ModelFileError(
            f"the output has another shape for another input: {' and '.join(map(str, sorted(shapes)))}",
            "give a classifier, which returns as many scores for every input",
        )
    if single is None:
        raise ModelFileError(f"the model does not run on an input of shape {tuple(rows.shape[1:])}: {fault}", _RETRY)
    if direct is None or tuple(direct.shape) != (len(rows), single.shape[-1]):
        _require_classifier(opened, rows)
    if not bool(single.isfinite().all()):
        raise _not_finite(opened.module)
    if direct is not None and direct.shape == single.shape:
        difference = deviation(direct, single)
        if difference <= TOLERANCE:
            return Measured(opened.module, "direct", single, (f"rows independent (within {difference:.0e})",))
        if opened.fixed_batch is None:
            raise ModelFileError(
                f"the output for a row depends on the other rows of its batch: it moves by {difference:.1%}", _RETRY
            )
    mapped = Batched(opened.module, "vmap", has_batch_axis=opened.has_batch_axis)
    with torch.no_grad():
        together, _ = _attempt(mapped, rows)
    reason = direct_fault or ("rows in and out differ" if opened.has_batch_axis else "it has no batch axis")
    if together is not None and together.shape == single.shape and deviation(together, single) <= TOLERANCE:
        return Measured(mapped, "vmap", single, (f"takes one row at a time ({_short(reason)}): mapped over the batch",))
    looped = Batched(opened.module, "loop", has_batch_axis=opened.has_batch_axis)
    return Measured(looped, "loop", single, (f"takes one row at a time ({_short(reason)}): row by row, slow",))


def _shapes(opened: OpenedModel, rows: Tensor) -> set[tuple[int, ...]]:
    """The shapes of what comes out for each row alone; those that fail are left out."""
    found = set()
    for row in rows:
        with torch.no_grad():
            output, _ = _attempt(opened.module, row[None] if opened.has_batch_axis else row)
        found |= {tuple(output.shape)} if output is not None else set()
    return found


def _not_finite(module: nn.Module) -> ModelFileError:
    """The refusal of outputs that are no numbers; it names the weights where those are none either."""
    weights = [name for name, tensor in module.state_dict().items() if bool(tensor.isnan().any())]
    if weights:
        return ModelFileError(
            f"the weights hold NaN: {len(weights)} tensor{'s' if len(weights) > 1 else ''}, first {weights[0]!r}",
            "give a checkpoint from before the training diverged",
        )
    return ModelFileError("the model's outputs are not finite on random inputs", SCALE)


def _require_classifier(opened: OpenedModel, rows: Tensor) -> None:
    with torch.no_grad():
        output = opened.module(rows[:1] if opened.has_batch_axis else rows[0])
    shape = tuple(output.shape)
    expected = 2 if opened.has_batch_axis else 1
    if len(shape) != expected or (opened.has_batch_axis and shape[0] != 1):
        raise ModelFileError(
            f"the output for one input has shape {shape}, not (1, classes)",
            "use a classifier, or choose its scores with --output NAME; if rows multiply, check --input-shape",
        )


def _attempt(module: nn.Module, rows: Tensor) -> tuple[Tensor | None, str | None]:
    """The output, or why there is none: foreign graphs fail in any way they like."""
    try:
        output = module(rows)
    except Exception as fault:  # whatever a foreign graph raises, it is the file's fault
        return None, _short(str(fault))
    return (output, None) if isinstance(output, Tensor) else (None, f"the output is a {type(output).__name__}")


def _short(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "no message"
    return line if len(line) <= 120 else line[:117] + "..."


def measure_gradient(module: nn.Module, rows: Tensor, classes: int) -> str:
    """Checks that logits have a gradient in the input, on several kinds of starts.

    Args:
        module: maps normalised rows to (N, K) logits.
        rows: normalised rows (N, *shape).
        classes: K.

    Returns:
        A sentence with the share of rows that have one.

    Raises:
        ModelFileError: if there is none, it is zero on every row, or not finite.
    """
    tried = min(FIRST_STARTS if rows[0].numel() < LARGE_ROW else FIRST_STARTS - 1, len(rows))
    alive = _rows_with_gradient(module, rows[:tried], classes, 0)
    if alive < tried < len(rows):  # a dead start says nothing of the model yet
        alive += _rows_with_gradient(module, rows[tried:], classes, tried)
        tried = len(rows)
    if alive == 0:
        raise ModelFileError(
            f"the gradient in the input is zero on all of {tried} random inputs",
            f"use a trained float model: a constant, untrained or quantised one has nothing to follow; or {SCALE}",
        )
    return f"gradient non-zero on {alive} of {tried} random inputs"


def _rows_with_gradient(module: nn.Module, rows: Tensor, classes: int, first: int) -> int:
    """How many rows have a gradient that is not zero; the first one aims at class `first`, the next at the next."""
    rows = rows.clone().requires_grad_()
    targets = (first + torch.arange(len(rows))) % classes
    try:
        logits = module(rows)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits.float(), targets, reduction="sum"), rows)
    except RuntimeError as fault:
        raise ModelFileError(
            f"the output has no gradient in the input: {_short(str(fault))}",
            "use the float model from before quantisation or inference optimisation",
        ) from fault
    if not bool(gradient.isfinite().all()):
        raise ModelFileError("the gradient in the input is not finite on random inputs", SCALE)
    return int((gradient.flatten(1).abs().amax(dim=1) > 0).sum())


def looks_like_probabilities(outputs: Tensor) -> bool:
    """Whether every row (N, K), K > 1, is a distribution: a softmax that the graph hid."""
    if outputs.shape[1] < 2:
        return False
    sums = outputs.sum(dim=1)
    return bool((outputs >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all())
