"""An ONNX graph as a list of steps: what is constant is computed once, what is left runs on every forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from onnx import GraphProto
from torch import Tensor

from cake_cli.models.onnx.interpreter.host import HOST_LIMIT, Host
from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator, tensor_from_proto
from cake_cli.models.onnx.interpreter.operators import OPERATORS
from cake_cli.models.onnx.interpreter.shape_math import SHAPE_MATH
from cake_cli.models.onnx.interpreter.table import Operator

ALWAYS_HOST = frozenset({"Shape", "Size"})
"""Operators that read the shape of a tensor and nothing of its data."""

MAIN_DOMAINS = frozenset({"", "ai.onnx"})


@dataclass(eq=False)
class Constant:
    """A value of the file, or computed from values of the file alone."""

    tensor: Tensor | None
    """Until the program is complete; afterwards the buffer `key` holds it."""
    host: Host | None
    key: str | None = None


Argument = str | Constant | None
"""What a step reads: a named value, a constant, or nothing."""


@dataclass(eq=False)
class Step:
    """One operator call, ready to run."""

    node: Node
    operator: Operator
    arguments: tuple[Argument, ...]
    maybe_host: bool
    """Whether its inputs may all be host values."""
    bodies: dict[str, Program] = field(default_factory=dict)
    """The graphs among its attributes: the branches of an If, the body of a Loop."""
    module: str | None = None
    """The submodule that computes it, where there is one."""
    released: tuple[str, ...] = ()
    """Values that nobody reads after this step."""


@dataclass(eq=False)
class Program:
    """The steps of a graph in order, and where its outputs are found."""

    inputs: tuple[str, ...]
    steps: list[Step]
    outputs: tuple[Argument, ...]
    captured: frozenset[str]
    """Names that come from the graph around this one."""


class Store(Protocol):
    """Where the constants of a program live: the interpreter module."""

    def keep(self, constant: Constant) -> None:
        """Registers a constant as a buffer, once."""

    def note_constant(self, name: str, value: Tensor | None, host: Host | None) -> None:
        """Told of every named constant of the main graph."""

    def batch_norm(self, weights: Sequence[Tensor], epsilon: float) -> str:
        """Registers a batch normalisation with (scale, bias, mean, variance), each (C,), and returns its key."""

    def evaluate(self, step: Step, constants: Sequence[Tensor | None]) -> tuple[Tensor | Host, ...]:
        """Runs a step whose inputs are all constant."""


def constant_of(value: Tensor | Host) -> Constant:
    """A constant that knows its host form where it is small enough."""
    if isinstance(value, Host):
        like = torch.empty(0)
        return Constant(value.tensor(like), value)
    return Constant(value, Host.of(value) if value.numel() <= HOST_LIMIT else None)


class Compiler:
    """Turns graphs into programs.

    Args:
        opsets: the version of each operator domain that the file declares.
        store: keeps the constants.
    """

    def __init__(self, opsets: Mapping[str, int], store: Store) -> None:
        self.opsets = dict(opsets)
        self.store = store

    def compile(self, graph: GraphProto, around: Mapping[str, Constant] | None = None) -> Program:
        """The program of a graph whose nodes are in order.

        Args:
            graph: a topologically sorted graph without local functions.
            around: constants of the graph that this one is an attribute of.

        Raises:
            UnsupportedOperator: with the operator, its opset and the node's name.
        """
        constants: dict[str, Constant] = dict(around or {})
        for initializer in graph.initializer:
            constants[initializer.name] = constant_of(tensor_from_proto(initializer))
        inputs = tuple(value.name for value in graph.input if value.name not in constants or around)
        for name in inputs:
            constants.pop(name, None)
        hosts: set[str] = set()  # values that may turn out to be host values
        known = set(inputs)
        captured: set[str] = set()
        steps: list[Step] = []
        for index, proto in enumerate(graph.node):
            domain = "" if proto.domain in MAIN_DOMAINS else proto.domain
            node = Node.from_proto(proto, self.opsets.get(domain, 1), index)
            step = self._step(node, domain, constants, hosts)
            if self._fold(step, constants):
                continue
            names = {argument for argument in step.arguments if isinstance(argument, str)}
            names |= {name for body in step.bodies.values() for name in body.captured}
            captured |= names - known
            known.update(node.outputs)
            if node.operator in ALWAYS_HOST or (step.maybe_host and node.operator in SHAPE_MATH):
                hosts.update(node.outputs)
            self._keep_constants(step)
            steps.append(step)
        if around is None:
            for name, constant in constants.items():
                self.store.note_constant(name, constant.tensor, constant.host)
        outputs = tuple(constants.get(value.name, value.name) for value in graph.output)
        for output in outputs:
            if isinstance(output, Constant):
                self.store.keep(output)
        captured |= {output for output in outputs if isinstance(output, str)} - known
        program = Program(inputs, steps, outputs, frozenset(captured))
        _mark_released(program)
        return program

    def _step(self, node: Node, domain: str, constants: Mapping[str, Constant], hosts: set[str]) -> Step:
        operator = OPERATORS.get((domain, node.operator))
        if operator is None:
            raise UnsupportedOperator(node.title)
        arguments: tuple[Argument, ...] = tuple(constants.get(name, name) if name else None for name in node.inputs)
        maybe_host = bool(arguments) and all(
            argument is None
            or (isinstance(argument, Constant) and argument.host is not None)
            or (isinstance(argument, str) and argument in hosts)
            for argument in arguments
        )
        arguments += tuple(_weight(node, key) for key in operator.weights)
        step = Step(node, operator, arguments, maybe_host and node.operator not in ALWAYS_HOST)
        if operator.bodies:
            wanted = _chosen_branch(node, arguments)
            step.bodies = {
                key: self.compile(graph, constants)
                for key, graph in node.attributes.items()
                if isinstance(graph, GraphProto) and wanted in (None, key)
            }
        self._batch_norm(step)
        return step

    def _batch_norm(self, step: Step) -> None:
        """Gives a batch normalisation with constant statistics a module of its own, which can be hooked."""
        if step.node.operator != "BatchNormalization" or step.node.flag("training_mode"):
            return
        weights = [argument.tensor for argument in step.arguments[1:] if isinstance(argument, Constant)]
        tensors = [weight for weight in weights if weight is not None and weight.dim() == 1]
        if len(tensors) == 4:
            step.module = self.store.batch_norm(tensors, step.node.number("epsilon", 1e-5))
            step.arguments = step.arguments[:1]

    def _fold(self, step: Step, constants: dict[str, Constant]) -> bool:
        """Computes a step now if everything it reads is constant."""
        if not all(argument is None or isinstance(argument, Constant) for argument in step.arguments):
            return False
        if any(body.captured for body in step.bodies.values()):
            return False
        tensors = [argument.tensor if isinstance(argument, Constant) else None for argument in step.arguments]
        results = self.store.evaluate(step, tensors)
        for name, result in zip(step.node.outputs, results, strict=False):
            if name:
                constants[name] = constant_of(result)
        return True

    def _keep_constants(self, step: Step) -> None:
        for position, argument in enumerate(step.arguments):
            if isinstance(argument, Constant) and (
                position not in step.operator.host | step.operator.scalars or argument.host is None
            ):
                self.store.keep(argument)


def _weight(node: Node, key: str) -> Constant | None:
    """An attribute of numbers as a constant, which moves with the module as other weights do."""
    values = node.get(key)
    return constant_of(torch.tensor(list(values), dtype=torch.float32)) if values else None


def _chosen_branch(node: Node, arguments: Sequence[Argument]) -> str | None:
    condition = arguments[0] if arguments else None
    if node.operator != "If" or not isinstance(condition, Constant) or condition.host is None:
        return None
    return "then_branch" if condition.host.item() else "else_branch"


def _mark_released(program: Program) -> None:
    """Notes after which step each value is no longer needed, so that its memory is given back."""
    needed: set[str] = {output for output in program.outputs if isinstance(output, str)}
    made = set(program.inputs) | {name for step in program.steps for name in step.node.outputs}
    for step in reversed(program.steps):
        names = {argument for argument in step.arguments if isinstance(argument, str)}
        names |= {name for body in step.bodies.values() for name in body.captured}
        step.released = tuple(sorted((names - needed) & made))
        needed |= names
