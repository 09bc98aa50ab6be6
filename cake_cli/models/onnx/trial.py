"""Holding a converted module against the file's own runtime, and finding the batch sizes it is right for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from torch import nn

from cake_cli.errors import ModelFileError
from cake_cli.models.bounds import bounded_values
from cake_cli.models.onnx.classifier import OnnxClassifier
from cake_cli.models.onnx.comparison import (
    NOISE,
    TOLERANCE,
    guess_kind,
    in_file_terms,
    probe_rows,
    relative_difference,
    rounding_error,
    run_module,
)
from cake_cli.models.onnx.runtime import FileRuntime
from cake_cli.models.onnx.signature import Rows
from cake_cli.models.opened import OutputKind
from cake_cli.spec import format_shape


class Mismatch(Exception):
    """A converted module gives other values than the file."""

    def __init__(self, difference: float, runtime: str) -> None:
        super().__init__(f"it differs from {runtime} by {difference:.1e} (relative), more than {TOLERANCE:.0e}")
        self.difference = difference


@dataclass(frozen=True)
class Witness:
    """A run of the file on the probe rows, that modules are compared with."""

    runtime: str
    values: np.ndarray
    """(R, K), row by row, or in batches of the size that the file declares."""
    together: Callable[[], np.ndarray | None]
    """Runs the first three rows as one batch: (3, K), or None where the file does not take that."""
    kind: OutputKind
    """What the values are, when the module's are logits: "logits" for the value before the softmax."""
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Settled:
    """A module that passed, and how well."""

    module: OnnxClassifier
    kind: OutputKind
    difference: float
    """The greatest relative difference found; zero where nothing was compared."""

    @property
    def free(self) -> bool:
        """Whether it takes any batch size."""
        return self.module.fixed is None


def witness(runtime: FileRuntime, rows: Rows, kinds: list[OutputKind], tolerance: float) -> list[Witness]:
    """Runs the file on the probe rows.

    Returns:
        One witness for each output of the runtime, the scores first.
    """
    probe = probe_rows(rows, runtime.port.is_float)
    free = rows.has_batch and rows.declared is None
    if free:
        columns = zip(*[runtime(probe[index : index + 1]) for index in range(len(probe))], strict=True)
        values = [np.concatenate(column) for column in columns]
    else:
        values = runtime(probe)

    def together(place: int) -> np.ndarray | None:
        try:
            many = runtime(probe[:3])[place] if free else None
        except Exception:  # a file may declare a free batch and still fix one inside
            return None
        return None if many is None or len(many) != 3 else _flat(many)

    return [
        Witness(runtime.name, _flat(one), partial(together, place), kind, tolerance)
        for place, (one, kind) in enumerate(zip(values, kinds, strict=True))
    ]


def _flat(values: np.ndarray) -> np.ndarray:
    """Scores as (N, K).

    Raises:
        ModelFileError: if they are not one vector a row.
    """
    check_shape(values.shape)
    return values.reshape(len(values), -1)


def check_shape(shape: tuple[int | str, ...]) -> None:
    """Refuses outputs that are not one vector of classes for each row.

    Raises:
        ModelFileError: with the shape found.
    """
    if len(shape) == 0 or sum(1 for size in shape[1:] if size != 1) > 1:
        raise ModelFileError(
            f"the output is {format_shape(shape)}, not (batch, classes): no classifier "
            "(a detector, a segmentation or a decoder has such outputs)",
            "give a classifier, or choose its scores with --output NAME",
        )


class Trial:
    """Everything that a module of one file is held against.

    Args:
        rows: how rows lie in the input.
        is_float: whether the input is of floats, rather than bytes.
        kind: what was taken off the end of the graph.
        opinion: runs the file, once, after a module has run; gives none if it is not to be compared.
    """

    def __init__(self, rows: Rows, *, is_float: bool, kind: OutputKind, opinion: Callable[[], list[Witness]]) -> None:
        self.rows = rows
        self.kind = kind
        self.opinion = opinion
        self.probe = probe_rows(rows, is_float)
        self.seconds = 0.0
        """Spent on comparing so far."""

    @cached_property
    def witnesses(self) -> list[Witness]:
        """What the file says to the probe rows."""
        return self.opinion()

    def settle(self, body: nn.Module) -> Settled:
        """Compares a converted graph with the file, alone and in a batch of another size.

        Raises:
            Mismatch: if its values differ.
            ModelFileError: if the output is not (batch, classes).
            Exception: whatever the module itself raises on the probe rows.
        """
        started = time.perf_counter()
        try:
            return self._settle(body)
        finally:
            self.seconds += time.perf_counter() - started

    def _settle(self, body: nn.Module) -> Settled:
        size = self.rows.declared or 1
        if self.rows.is_large and self.witnesses:
            few = self._settle_on_few(body)
            if few is not None:
                return few
        first = self.probe[:size] if self.rows.has_batch else self.probe[0]
        with bounded_values():
            raw = run_module(body, first)
        if self.rows.has_batch:
            check_shape(raw.shape if raw.ndim and len(raw) == size else ())
        found = raw.reshape(size, -1)
        ends = self._guessed(found)
        remains: OutputKind = "probs" if ends == "probs" and self.kind == "logits" else "logits"
        module = OnnxClassifier(body, kind=remains, has_batch=self.rows.has_batch)
        difference = self._compare(module, module.as_logits(found), ends, slice(0, size))
        settled = Settled(module, ends, difference)
        return self._free(settled, found, size) if self.rows.has_batch else settled

    def _settle_on_few(self, body: nn.Module) -> Settled | None:
        """The same on three rows, where the batch that the file declares is large; None if it needs that batch."""
        try:
            with bounded_values():
                raw = run_module(body, self.probe[:3])
        except ModelFileError:
            raise
        except Exception:  # whatever operator meets the batch that the file fixed
            return None
        if raw.ndim == 0 or len(raw) != 3:
            return None
        check_shape(raw.shape)
        found = raw.reshape(3, -1)
        ends = self._guessed(found)
        remains: OutputKind = "probs" if ends == "probs" and self.kind == "logits" else "logits"
        module = OnnxClassifier(body, kind=remains, has_batch=True)
        return Settled(module, ends, self._compare(module, module.as_logits(found), ends, slice(0, 3)))

    def _guessed(self, found: np.ndarray) -> OutputKind:
        """The kind of the file's output, from its values where the graph does not show it."""
        if self.kind != "logits":
            return self.kind
        return guess_kind(self.witnesses[0].values if self.witnesses else found)

    def _compare(self, module: OnnxClassifier, logits: np.ndarray, ends: OutputKind, which: slice) -> float:
        """The greatest difference of logits, those of the probe rows `which`, from what the file says to them."""
        worst = 0.0
        for seen in self.witnesses:
            if not np.isfinite(seen.values).all():
                raise ModelFileError(
                    f"the scores of the file are not finite on random inputs, as {seen.runtime} computes them",
                    "give the scale of its inputs: --input-range LOW,HIGH",
                )
            values = in_file_terms(logits, ends if seen.kind == self.kind else seen.kind)
            difference = relative_difference(values, seen.values[which])
            if difference > seen.tolerance:  # a very deep network may not be computed better in float32
                rows = self.probe[which] if self.rows.has_batch else self.probe[0]
                if difference > NOISE * rounding_error(module, rows):
                    raise Mismatch(difference, seen.runtime)
            worst = max(worst, difference if seen.tolerance == TOLERANCE else 0.0)
        return worst

    def _free(self, settled: Settled, first: np.ndarray, size: int) -> Settled:
        """Holds the module to the file's batch, unless one of another size gives every row what it has alone."""
        module = settled.module
        count = 3 if size != 3 else 4
        try:
            together = run_module(module, self.probe[:count])
            if self.witnesses:
                difference = self._compare(module, together, settled.kind, slice(0, count))
                return replace(settled, difference=max(settled.difference, difference))
            alone = module.as_logits(first)
            if size == 1:
                more = [run_module(module, self.probe[index : index + 1]) for index in range(1, count)]
                alone = np.concatenate([alone, *more])
            rows = min(count, len(alone))
            if relative_difference(together[:rows], alone[:rows]) <= TOLERANCE:
                return settled
        except Mismatch:
            if self._as_the_file(together, settled.kind):
                return settled  # rows depend on each other in the file too: `verify` says so
        except Exception:  # whatever operator meets the batch that the file fixed
            module.fixed = size
        module.fixed = size
        if size == 1 and self.witnesses:  # one row may be right by chance
            for index in range(1, count):
                row = run_module(module, self.probe[index : index + 1])
                self._compare(module, row, settled.kind, slice(index, index + 1))
        return settled

    def _as_the_file(self, together: np.ndarray, ends: OutputKind) -> bool:
        scores = self.witnesses[0].together() if self.witnesses else None
        return scores is not None and relative_difference(in_file_terms(together, ends), scores) <= TOLERANCE
