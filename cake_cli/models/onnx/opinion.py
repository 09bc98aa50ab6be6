"""What the file itself says to the probe rows, asked for only once a converted graph has run on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from cake_cli.errors import ModelFileError
from cake_cli.models.onnx.comparison import TOLERANCE
from cake_cli.models.onnx.preparation import LATER_PASSES, prepare
from cake_cli.models.onnx.runtime import FileRuntime, NoRuntime
from cake_cli.models.onnx.signature import Port, Rows
from cake_cli.models.onnx.trial import Witness, witness
from cake_cli.models.opened import OutputKind

HALF_TOLERANCE = 2e-2
"""For files that compute in sixteen bits, against themselves; the same graph in float32 is held to `TOLERANCE`."""


@dataclass(frozen=True)
class Forms:
    """The graph of one file on its way. What is rarely needed is made when it is: each form holds all weights."""

    original: ModelProto
    """As it was read."""
    make_cut: Callable[[], ModelProto]
    """Makes it again, prepared and cut down to the scores."""
    scores: str
    """The output that holds the scores."""
    logits: str | None
    """The value that the softmax at its end is taken of, where that is seen."""
    kind: OutputKind
    half: bool
    """Whether the file computes in sixteen bits."""
    serialized: bytes | None = None
    """The original's own bytes, where they are all of it."""

    def make_plain(self) -> ModelProto:
        """The same in float32, its end still on."""
        model = self.make_cut()
        prepare(model, LATER_PASSES)
        return model


class SecondOpinion:
    """A file, run by onnxruntime or ONNX's reference evaluator.

    The runtimes know no limits to what a graph may ask for, so they only see it after our own interpreter,
    which does, has run it.

    Args:
        name: the file's name, for messages.
        forms: its graph.
        port: its input.
        rows: how rows lie in the input.
    """

    def __init__(self, name: str, forms: Forms, port: Port, rows: Rows) -> None:
        self.name = name
        self.forms = forms
        self.port = port
        self.rows = rows
        self._runtime: FileRuntime | None = None

    @property
    def runtime(self) -> FileRuntime:
        """The file as it came; what is left of it for the scores, where runtimes refuse the whole of it.

        Raises:
            ModelFileError: if nothing runs it.
        """
        if self._runtime is None:
            forms = self.forms
            weights = {tensor.name for tensor in forms.original.graph.initializer}
            inputs = [value for value in forms.original.graph.input if value.name not in weights]
            models = [lambda: forms.original, forms.make_cut] if len(inputs) == 1 else [forms.make_cut]
            self._runtime = self._run_by(models, self.port, [forms.scores])
        return self._runtime

    def witnesses(self) -> list[Witness]:
        """The file's values on the probe rows, and those of its float32 form before the softmax.

        Raises:
            ModelFileError: if nothing runs the file.
        """
        forms = self.forms
        found = witness(self.runtime, self.rows, [forms.kind], HALF_TOLERANCE if forms.half else TOLERANCE)
        if forms.half or forms.logits is not None:
            values, kinds = [forms.scores], [forms.kind]
            if forms.logits is not None:
                values, kinds = [forms.scores, forms.logits], [forms.kind, "logits"]
            model = forms.make_plain()
            plain = self._run_by([lambda: model], Port.of(model.graph.input[0]), values)
            found += witness(plain, self.rows, kinds, TOLERANCE)
        return found

    def scores(self, batch: np.ndarray) -> np.ndarray:
        """The file's scores of float32 (N, *row), as (N, K)."""
        values = self.runtime(batch)[0]
        return values.reshape(len(values), -1)

    def _run_by(self, models: list[Callable[[], ModelProto]], port: Port, outputs: list[str]) -> FileRuntime:
        try:
            whole = self.forms.serialized if models[0]() is self.forms.original else None
            return FileRuntime(models, port, self.rows, outputs, serialized=whole)
        except NoRuntime as fault:
            why = str(fault).strip().split("\n", 1)[0]
            raise ModelFileError(
                f"{self.name} does not run in onnxruntime, so nothing could be compared: {why}",
                "export it again, or go on unchecked with --no-verify",
            ) from fault
