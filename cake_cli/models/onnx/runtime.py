"""The second opinion: the file run by onnxruntime, or by ONNX's reference evaluator where that refuses it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from cake_cli.models.onnx.signature import Port, Rows

QUIET = 4
"""onnxruntime's log level for fatal faults only: its messages are not the user's business."""

CONVERTED_OPSET = 13
"""Files too old for both runtimes are run as this opset."""

MOST_MEMORY = 2 << 30
"""Bytes that onnxruntime may have for all values of graphs which nothing here could look at first."""

NO_MEMORY = "Available memory of"
"""What onnxruntime says when that is not enough."""


class Session(Protocol):
    """Something that runs a graph."""

    def run(self, outputs: list[str] | None, feeds: dict[str, np.ndarray]) -> Any:
        """The named outputs, as arrays."""


class NoRuntime(Exception):
    """No runtime takes the graph."""


class FileRuntime:
    """An ONNX graph run as it is.

    Args:
        models: make the file's graph, the most original form first; later ones are for what runtimes refuse.
        port: the input.
        rows: how rows lie in the input.
        outputs: the values to read, each (N, ...).
        serialized: the first of the graphs as bytes, where they are at hand: to write them takes its time.
        bounded: keep to `MOST_MEMORY`, for which only onnxruntime is asked.

    Raises:
        NoRuntime: with what the first one said, if no runtime runs any of the graphs on one row.
    """

    def __init__(
        self,
        models: Sequence[Callable[[], ModelProto]],
        port: Port,
        rows: Rows,
        outputs: list[str],
        *,
        serialized: bytes | None = None,
        bounded: bool = False,
    ) -> None:
        self.port = port
        self.rows = rows
        self.outputs = outputs
        first: Exception | None = None
        for name, make in _sessions(models, outputs, serialized, bounded=bounded):
            try:
                self.name, self.session = name, make()
                if not rows.is_large:
                    self(np.zeros((rows.declared or 1, *rows.shape), dtype=np.float32))
            except Exception as fault:  # runtimes raise many kinds; the next one gets its turn
                first = first or fault
            else:
                return
        raise NoRuntime(str(first)) from first

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Runs float32 (N, *row); in pieces of the declared batch where the file fixes one.

        Returns:
            One float32 array for each of `outputs`, with N rows.
        """
        size = 1 if not self.rows.has_batch else self.rows.declared
        if size is None:
            return self._run(batch)
        pieces = []
        for start in range(0, len(batch), size):
            piece = batch[start : start + size]
            filled = np.concatenate([piece, np.repeat(piece[-1:], size - len(piece), axis=0)])
            values = self._run(filled if self.rows.has_batch else filled[0])
            values = values if self.rows.has_batch else [value[None] for value in values]
            pieces.append([value[: len(piece)] for value in values])
        return [np.concatenate(column) for column in zip(*pieces, strict=True)]

    def _run(self, batch: np.ndarray) -> list[np.ndarray]:
        feed = batch.astype(onnx.helper.tensor_dtype_to_np_dtype(self.port.kind))
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = self.session.run(self.outputs, {self.port.name: feed})
        return [np.asarray(result, dtype=np.float32) for result in results]


def _shown(model: ModelProto, outputs: list[str]) -> ModelProto:
    """A model that lists the values to read among its outputs: the same where it does already."""
    listed = {value.name for value in model.graph.output}
    if listed.issuperset(outputs):
        return model
    shown = ModelProto()
    shown.CopyFrom(model)
    for name in outputs:
        if name not in listed:
            shown.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return shown


def _sessions(
    models: Sequence[Callable[[], ModelProto]], outputs: list[str], serialized: bytes | None, *, bounded: bool
) -> Iterator[tuple[str, Callable[[], Session]]]:
    """Every way to run a graph, the best first."""
    first, *others = models
    original = first()
    shown = _shown(original, outputs)
    if bounded:
        yield "onnxruntime", lambda: _onnxruntime(shown, bounded=True)
        return
    yield "onnxruntime", lambda: _onnxruntime(shown, serialized if shown is original else None)
    for make in others:
        yield "onnxruntime", lambda make=make: _onnxruntime(_shown(make(), outputs))  # type: ignore[misc]
    for make in models:
        yield "onnx.reference", lambda make=make: _reference(_shown(make(), outputs))  # type: ignore[misc]
    converted = f"onnxruntime (read as opset {CONVERTED_OPSET})"

    def convert() -> ModelProto:
        model: ModelProto = onnx.version_converter.convert_version(_shown(models[-1](), outputs), CONVERTED_OPSET)
        return model

    yield converted, lambda: _onnxruntime(convert())


def _onnxruntime(model: ModelProto, serialized: bytes | None = None, *, bounded: bool = False) -> Session:
    import onnxruntime as ort

    options = ort.SessionOptions()  # type: ignore[attr-defined]
    options.log_severity_level = QUIET
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch needs the cores next
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC  # type: ignore[attr-defined]
    if bounded:
        _share_bounded_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
    session: Session = ort.InferenceSession(  # type: ignore[attr-defined]
        serialized or model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session


@cache
def _share_bounded_memory() -> None:
    """Makes, once in a process, the memory that bounded sessions share."""
    import onnxruntime as ort

    kind = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)  # type: ignore[attr-defined]
    as_requested = 1
    ort.create_and_register_allocator(  # type: ignore[attr-defined]
        kind,
        ort.OrtArenaCfg({"max_mem": MOST_MEMORY, "arena_extend_strategy": as_requested}),  # type: ignore[attr-defined]
    )


def _reference(model: ModelProto) -> Session:
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(model)
