"""The interpreter: a torch module that walks an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor, nn

from cake_cli.models.bounds import bounded_values
from cake_cli.models.onnx.interpreter.host import Host
from cake_cli.models.onnx.interpreter.node import LEAST_EPSILON, UnsupportedOperator
from cake_cli.models.onnx.interpreter.program import Argument, Compiler, Constant, Program, Step
from cake_cli.models.onnx.interpreter.shape_math import SHAPE_MATH

Value = Tensor | Host

MOST_STEPS = 100_000
"""That the bodies of all loops and branches together may take in one forward: loops in loops multiply."""


class GraphError(RuntimeError):
    """A step of the graph failed on these inputs; names the operator, its opset and the node."""


class GraphBatchNorm(nn.BatchNorm2d):
    """Batch normalisation in eval mode for any number of axes: (N, C, ...)."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class Interpreter(nn.Module):
    """An ONNX graph, node by node in torch functions: differentiable in its inputs, any batch size.

    Weights are buffers (batch normalisations are `nn.BatchNorm2d` modules), so `.to` moves them. Shape
    arithmetic stays in Python integers; nothing in a forward waits for the device.

    Args:
        model: a prepared model: sorted, local functions inlined.

    Raises:
        UnsupportedOperator: for an operator, or a way of using it, without a torch counterpart.
    """

    def __init__(self, model: ModelProto) -> None:
        super().__init__()
        opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}
        self._constants = 0
        self._taken = 0
        with torch.no_grad(), bounded_values():
            self.program: Program = Compiler(opsets, self).compile(model.graph)
        _forget_tensors(self.program)
        self.eval()
        self.requires_grad_(False)

    def keep(self, constant: Constant) -> None:
        """Registers a constant as a buffer, once."""
        if constant.key is None and constant.tensor is not None:
            constant.key = f"constant_{self._constants}"
            self._constants += 1
            self.register_buffer(constant.key, constant.tensor)

    def note_constant(self, name: str, value: Tensor | None, host: Host | None) -> None:
        """Told of every named constant while the graph is compiled; an observer keeps them."""

    def batch_norm(self, weights: Sequence[Tensor], epsilon: float) -> str:
        """Registers a batch normalisation with (scale, bias, mean, variance), each (C,)."""
        scale, bias, mean, variance = weights
        norm = GraphBatchNorm(scale.numel(), eps=max(epsilon, LEAST_EPSILON))
        norm.weight.copy_(scale)
        norm.bias.copy_(bias)
        norm.running_mean, norm.running_var = mean.clone(), variance.clone()
        key = f"norm_{self._constants}"
        self._constants += 1
        self.add_module(key, norm)
        return key

    def evaluate(self, step: Step, constants: Sequence[Tensor | None]) -> tuple[Value, ...]:
        """Runs a step whose inputs are all constant."""
        names = [f"input_{index}" for index in range(len(constants))]
        values = {name: tensor for name, tensor in zip(names, constants, strict=True) if tensor is not None}
        arguments = tuple(name if name in values else None for name in names)
        alone = Step(step.node, step.operator, arguments, maybe_host=False, bodies=step.bodies, module=step.module)
        return self._run_step(alone, dict(values), torch.empty(0))

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Runs the graph.

        Args:
            *inputs: a tensor for each input of the graph, in order.

        Returns:
            One tensor, or a tuple where the graph has several outputs.

        Raises:
            GraphError: where a step does not take these shapes.
            UnsupportedOperator: where its loops go on for too long.
        """
        self._taken = 0
        like = next((tensor for tensor in inputs if tensor.is_floating_point()), torch.empty(0))
        results = self.run(self.program, inputs, {}, like)
        tensors = tuple(self._tensor(result, like) for result in results)
        return tensors[0] if len(tensors) == 1 else tensors

    def run(
        self, program: Program, inputs: Sequence[Value], around: Mapping[str, Value], like: Tensor
    ) -> tuple[Value, ...]:
        """Runs a program, with the values of the graph around it in sight."""
        values: dict[str, Value] = {**around, **dict(zip(program.inputs, inputs, strict=False))}
        for step in program.steps:
            results = self._run_step(step, values, like)
            for name, result in zip(step.node.outputs, results, strict=False):
                if name:
                    values[name] = result
            for name in step.released:
                del values[name]
        return tuple(self._value(output, values) for output in program.outputs)

    def _run_step(self, step: Step, values: Mapping[str, Value], like: Tensor) -> tuple[Value, ...]:
        try:
            if step.maybe_host:
                host = self._run_on_host(step, values)
                if host is not None:
                    return (host,)
            return self._run_on_tensors(step, values, like)
        except (GraphError, UnsupportedOperator):
            raise
        except Exception as fault:
            raise GraphError(f"{step.node.title}: {fault}") from fault

    def _run_on_host(self, step: Step, values: Mapping[str, Value]) -> Host | None:
        function = SHAPE_MATH.get(step.node.operator)
        if function is None:
            return None
        hosts: list[Host | None] = []
        for argument in step.arguments:
            value = argument.host if isinstance(argument, Constant) else values[argument] if argument else None
            if isinstance(value, Tensor):
                return None
            hosts.append(value)
        return function(step.node, *hosts)

    def _run_on_tensors(self, step: Step, values: Mapping[str, Value], like: Tensor) -> tuple[Value, ...]:
        operator = step.operator
        arguments: list[Value | None] = []
        for position, argument in enumerate(step.arguments):
            if argument is None:
                arguments.append(None)
            elif position in operator.host or (
                position in operator.scalars and isinstance(argument, Constant) and argument.host is not None
            ):
                arguments.append(self._host(argument, values))
            else:
                arguments.append(self._tensor(self._value(argument, values), like))
        if step.module is not None:
            return (self.get_submodule(step.module)(*arguments),)
        extra: dict[str, Any] = {"like": like} if operator.like else {}
        if operator.bodies:
            extra["execute"] = partial(self._execute, step, values, like)
        result = operator.function(step.node, *arguments, **extra)
        return result if isinstance(result, tuple) else (result,)

    def _execute(
        self, step: Step, values: Mapping[str, Value], like: Tensor, key: str, *inputs: Value
    ) -> tuple[Value, ...]:
        body = step.bodies[key]
        self._taken += 1 + len(body.steps)
        if self._taken > MOST_STEPS:
            raise UnsupportedOperator(f"{step.node.title} with loops of more than {MOST_STEPS:,} steps in all")
        return self.run(body, inputs, values, like)

    def _value(self, argument: Argument, values: Mapping[str, Value]) -> Value:
        if isinstance(argument, Constant):
            buffer = self._buffers.get(argument.key) if argument.key is not None else argument.tensor
            if buffer is None:
                raise GraphError("a constant without a value")
            return buffer
        if argument is None or argument not in values:
            raise GraphError(f"nothing makes the value {argument!r}")
        return values[argument]

    def _host(self, argument: Argument, values: Mapping[str, Value]) -> Host:
        if isinstance(argument, Constant) and argument.host is not None:
            return argument.host
        value = self._value(argument, values)
        return Host.of(value) if isinstance(value, Tensor) else value

    def _tensor(self, value: Value, like: Tensor) -> Tensor:
        return value.tensor(like) if isinstance(value, Host) else value


def _forget_tensors(program: Program) -> None:
    """Leaves the buffers as the only holders of the constants."""
    for step in program.steps:
        for argument in step.arguments:
            if isinstance(argument, Constant):
                argument.tensor = None
        for body in step.bodies.values():
            _forget_tensors(body)
    for output in program.outputs:
        if isinstance(output, Constant):
            output.tensor = None
