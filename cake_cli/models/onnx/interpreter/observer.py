"""A run of the interpreter that notes the shape of every value."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from onnx import ModelProto
from torch import Tensor

from cake_cli.models.bounds import bounded_values
from cake_cli.models.onnx.interpreter.host import Host
from cake_cli.models.onnx.interpreter.module import Interpreter, Value
from cake_cli.models.onnx.interpreter.program import Step


class Observer(Interpreter):
    """An interpreter that keeps notes.

    Args:
        model: a prepared model.
        x: one input batch; the model is run on it at once.

    Raises:
        UnsupportedOperator, GraphError: as the interpreter does.
    """

    def __init__(self, model: ModelProto, x: Tensor) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Of every value of the main graph, constants too."""
        self.integers: dict[str, list[int]] = {}
        """The small one-dimensional integer constants."""
        super().__init__(model)
        self.shapes[self.program.inputs[0]] = tuple(x.shape)
        with torch.no_grad(), bounded_values():
            self(x)

    def note_constant(self, name: str, value: Tensor | None, host: Host | None) -> None:
        """Called for every constant while the graph is compiled."""
        if value is not None:
            self.shapes[name] = tuple(value.shape)
        if host is not None and len(host.shape) == 1 and host.dtype is torch.int64:
            self.integers[name] = host.ints

    def _run_step(self, step: Step, values: Mapping[str, Value], like: Tensor) -> tuple[Value, ...]:
        results = super()._run_step(step, values, like)
        self.shapes.update(
            (name, tuple(result.shape)) for name, result in zip(step.node.outputs, results, strict=False) if name
        )
        return results
