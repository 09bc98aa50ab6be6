"""RNN, GRU and LSTM, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table()

Activation = Callable[[Tensor], Tensor]
Cell = Callable[["Direction", Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]

ACTIVATIONS: dict[str, Callable[[float, float], Activation]] = {
    "Sigmoid": lambda alpha, beta: torch.sigmoid,
    "Tanh": lambda alpha, beta: torch.tanh,
    "Relu": lambda alpha, beta: torch.relu,
    "Softplus": lambda alpha, beta: F.softplus,
    "Softsign": lambda alpha, beta: F.softsign,
    "Affine": lambda alpha, beta: lambda x: alpha * x + beta,
    "LeakyRelu": lambda alpha, beta: lambda x: F.leaky_relu(x, alpha),
    "ThresholdedRelu": lambda alpha, beta: lambda x: torch.where(x >= alpha, x, torch.zeros_like(x)),
    "ScaledTanh": lambda alpha, beta: lambda x: alpha * torch.tanh(beta * x),
    "HardSigmoid": lambda alpha, beta: lambda x: (alpha * x + beta).clamp(0, 1),
    "Elu": lambda alpha, beta: lambda x: F.elu(x, alpha),
}
PARAMETERS: dict[str, tuple[float | None, float | None]] = {
    "Affine": (1.0, 0.0),
    "LeakyRelu": (0.01, None),
    "ThresholdedRelu": (1.0, None),
    "ScaledTanh": (1.0, 1.0),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0, None),
}
"""The alpha and beta that an activation has where the node gives none; None for one that it does not take."""


@dataclass(frozen=True)
class Direction:
    """The weights of one direction; G gates of size H over inputs of size D."""

    node: Node
    w: Tensor
    """(G H, D)"""
    r: Tensor
    """(G H, H)"""
    input_bias: Tensor
    """(G H,)"""
    hidden_bias: Tensor
    """(G H,)"""
    peepholes: tuple[Tensor, ...]
    """Those of the input, output and forget gates, (H,) each; none where absent."""
    activations: list[Activation]

    def clipped(self, total: Tensor) -> Tensor:
        """What goes into an activation, within the node's `clip` where it has one."""
        bound = self.node.get("clip")
        return total if bound is None else total.clamp(-float(bound), float(bound))


def _activations(node: Node, names: list[str]) -> list[Activation]:
    """The functions of a node's activations; alphas and betas are given to those that take them, in order."""
    unknown = [name for name in names if name not in ACTIVATIONS]
    if unknown:
        raise UnsupportedOperator(f"{node.title} with activations {', '.join(unknown)}")
    given = [list(node.get("activation_alpha", ())), list(node.get("activation_beta", ()))]
    functions = []
    for name in names:
        values = [
            0.0 if default is None else given[which].pop(0) if given[which] else default
            for which, default in enumerate(PARAMETERS.get(name, (None, None)))
        ]
        functions.append(ACTIVATIONS[name](*values))
    return functions


def _rnn_cell(side: Direction, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (hidden,) = state
    total = x @ side.w.mT + hidden @ side.r.mT + side.input_bias + side.hidden_bias
    return (side.activations[0](side.clipped(total)),)


def _gru_cell(side: Direction, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (hidden,) = state
    gate, candidate = side.activations
    size = hidden.shape[-1]
    xs = x @ side.w.mT + side.input_bias  # (N, 3 H): update, reset, hidden
    hs = hidden @ side.r[: 2 * size].mT + side.hidden_bias[: 2 * size]
    update, reset = gate(side.clipped(xs[:, : 2 * size] + hs)).chunk(2, 1)
    weight, bias = side.r[2 * size :], side.hidden_bias[2 * size :]
    if side.node.flag("linear_before_reset"):
        inner = reset * (hidden @ weight.mT + bias)
    else:
        inner = (reset * hidden) @ weight.mT + bias
    proposed = candidate(side.clipped(xs[:, 2 * size :] + inner))
    return ((1 - update) * proposed + update * hidden,)


def _lstm_cell(side: Direction, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    hidden, cell = state
    gate, inner, outer = side.activations
    total = x @ side.w.mT + hidden @ side.r.mT + side.input_bias + side.hidden_bias
    enter, leave, forget, fresh = total.chunk(4, 1)
    if side.peepholes:
        enter, forget = enter + side.peepholes[0] * cell, forget + side.peepholes[2] * cell
    enter, forget = gate(side.clipped(enter)), gate(side.clipped(forget))
    cell = (1 - enter if side.node.flag("input_forget") else forget) * cell + enter * inner(side.clipped(fresh))
    if side.peepholes:
        leave = leave + side.peepholes[1] * cell
    return gate(side.clipped(leave)) * outer(cell), cell


def _run(
    node: Node, cell: Cell, defaults: list[str], states: int, x: Tensor, w: Tensor, r: Tensor,
    bias: Tensor | None, lengths: Tensor | None, initial: list[Tensor | None], peepholes: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Runs a cell over time, in one or both directions.

    Returns:
        All hidden states (T, directions, N, H), and the last of each state (directions, N, H).
    """
    batch_first = node.flag("layout")
    if batch_first:
        x = x.transpose(0, 1)
        initial = [None if state is None else state.transpose(0, 1) for state in initial]
    names = node.get("activations") or defaults * w.shape[0]
    activations = _activations(node, names)
    size, rows = r.shape[-1], x.shape[1]
    columns: list[Tensor] = []
    finals: list[tuple[Tensor, ...]] = []
    for index in range(w.shape[0]):
        biases = x.new_zeros(2 * w.shape[1]) if bias is None else bias[index]
        side = Direction(
            node, w[index], r[index], biases.chunk(2)[0],
            biases.chunk(2)[1],
            () if peepholes is None else peepholes[index].chunk(3),
            activations[index * len(defaults) : (index + 1) * len(defaults)],
        )  # fmt: skip
        state = tuple(x.new_zeros(rows, size) if start is None else start[index] for start in [*initial, None][:states])
        backwards = node.text("direction", "forward") == "reverse" or index == 1
        column, final = _over_time(side, cell, x, state, lengths, backwards=backwards)
        columns.append(column)
        finals.append(final)
    every = torch.stack(columns, 1)  # (T, directions, N, H)
    last = [torch.stack(parts) for parts in zip(*finals, strict=True)]  # (directions, N, H)
    if batch_first:
        return every.permute(2, 0, 1, 3), *[part.transpose(0, 1) for part in last]
    return every, *last


def _over_time(
    side: Direction, cell: Cell, x: Tensor, state: tuple[Tensor, ...], lengths: Tensor | None, *, backwards: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    steps: list[Tensor] = [x.new_zeros(0)] * x.shape[0]
    order = range(x.shape[0])
    for time in reversed(order) if backwards else order:
        following = cell(side, x[time], state)
        if lengths is None:
            state, steps[time] = following, following[0]
            continue
        alive = (time < lengths)[:, None]  # (N, 1): shorter rows wait
        state = tuple(torch.where(alive, new, old) for new, old in zip(following, state, strict=True))
        steps[time] = torch.where(alive, following[0], torch.zeros_like(following[0]))
    return torch.stack(steps), state


@TABLE.add("RNN")
def _rnn(
    node: Node, x: Tensor, w: Tensor, r: Tensor, bias: Tensor | None = None,
    lengths: Tensor | None = None, hidden: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    return _run(node, _rnn_cell, ["Tanh"], 1, x, w, r, bias, lengths, [hidden])


@TABLE.add("GRU")
def _gru(
    node: Node, x: Tensor, w: Tensor, r: Tensor, bias: Tensor | None = None,
    lengths: Tensor | None = None, hidden: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    return _run(node, _gru_cell, ["Sigmoid", "Tanh"], 1, x, w, r, bias, lengths, [hidden])


@TABLE.add("LSTM")
def _lstm(
    node: Node, x: Tensor, w: Tensor, r: Tensor, bias: Tensor | None = None, lengths: Tensor | None = None,
    hidden: Tensor | None = None, cell: Tensor | None = None, peepholes: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    defaults = ["Sigmoid", "Tanh", "Tanh"]
    return _run(node, _lstm_cell, defaults, 2, x, w, r, bias, lengths, [hidden, cell], peepholes)
