"""If, Loop and Scan, where the way through them is known without the data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cake_cli.models.onnx.interpreter.host import Host
from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table()

Value = Tensor | Host
Execute = Callable[..., tuple[Value, ...]]

MOST_ITERATIONS = 10_000


@TABLE.add("If", host=[0], bodies=True)
def _if(node: Node, condition: Host, execute: Execute) -> tuple[Value, ...]:
    return execute("then_branch" if condition.item() else "else_branch")


@TABLE.add("Loop", host=[0, 1], bodies=True)
def _loop(
    node: Node, count: Host | None, condition: Host | None, *carried: Tensor, execute: Execute
) -> tuple[Value, ...]:
    limit = int(count.item()) if count is not None else MOST_ITERATIONS + 1
    going = bool(condition.item()) if condition is not None else True
    state: tuple[Value, ...] = carried
    collected: list[list[Tensor]] = []
    turn = 0
    while going and turn < limit:
        if turn >= MOST_ITERATIONS:
            raise UnsupportedOperator(f"{node.title} with more than {MOST_ITERATIONS} iterations")
        more, *results = execute("body", Host.scalar(turn), Host((going,), (), torch.bool), *state)
        state = tuple(results[: len(carried)])
        scanned = [_tensor(result) for result in results[len(carried) :]]
        collected = collected or [[] for _ in scanned]
        for column, result in zip(collected, scanned, strict=True):
            column.append(result)
        going = bool(_host(more).item())
        turn += 1
    return (*state, *[torch.stack(column) for column in collected])


@TABLE.add("Scan", bodies=True)
def _scan(node: Node, *inputs: Tensor, execute: Execute) -> tuple[Value, ...]:
    if node.opset < 9:
        raise UnsupportedOperator(node.title)
    scanned = node.integer("num_scan_inputs")
    carried = len(inputs) - scanned
    state: tuple[Value, ...] = inputs[:carried]
    sequences = inputs[carried:]
    axes = node.integers("scan_input_axes") or [0] * scanned
    backwards = node.integers("scan_input_directions") or [0] * scanned
    rows = [
        list(torch.unbind(sequence.flip(axis) if back else sequence, axis))
        for sequence, axis, back in zip(sequences, axes, backwards, strict=True)
    ]
    collected: list[list[Tensor]] = []
    for row in zip(*rows, strict=True):
        results = execute("body", *state, *row)
        state = results[:carried]
        outputs = [_tensor(result) for result in results[carried:]]
        collected = collected or [[] for _ in outputs]
        for column, result in zip(collected, outputs, strict=True):
            column.append(result)
    out_axes = node.integers("scan_output_axes") or [0] * len(collected)
    out_back = node.integers("scan_output_directions") or [0] * len(collected)
    stacks = [
        torch.stack(column[::-1] if back else column, axis)
        for column, axis, back in zip(collected, out_axes, out_back, strict=True)
    ]
    return (*state, *stacks)


def _tensor(value: Value) -> Tensor:
    return value.tensor(torch.empty(0)) if isinstance(value, Host) else value


def _host(value: Value) -> Host:
    return Host.of(value) if isinstance(value, Tensor) else value
