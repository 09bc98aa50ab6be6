"""Reading and writing at computed places."""

from __future__ import annotations

import torch
from torch import Tensor

from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table()


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Negative indices count from the end."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


@TABLE.add("Gather")
def _gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.integer("axis", 0) % x.dim()
    picked = x.index_select(axis, _wrapped(indices, x.shape[axis]).reshape(-1))
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@TABLE.add("GatherElements")
def _gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.integer("axis", 0)
    return torch.gather(x, axis, _wrapped(indices, x.shape[axis]))


@TABLE.add("GatherND")
def _gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    batch = node.integer("batch_dims", 0)
    if batch:
        rows = x.flatten(0, batch - 1) if batch > 1 else x
        places = indices.flatten(0, batch - 1) if batch > 1 else indices
        result = torch.stack([_at(row, place) for row, place in zip(rows, places, strict=True)])
        return result.reshape(*x.shape[:batch], *result.shape[1:])
    return _at(x, indices)


def _at(x: Tensor, indices: Tensor) -> Tensor:
    columns = [_wrapped(indices[..., axis], x.shape[axis]) for axis in range(indices.shape[-1])]
    return x[tuple(columns)]


@TABLE.add("Scatter", "ScatterElements")
def _scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis = node.integer("axis", 0)
    places = _wrapped(indices, x.shape[axis])
    how = node.text("reduction", "none")
    if how == "none":
        return x.scatter(axis, places, updates.to(x.dtype))
    return x.scatter_reduce(axis, places, updates.to(x.dtype), _reduction(node, how))


@TABLE.add("ScatterND")
def _scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    depth = indices.shape[-1]
    tail = list(x.shape[depth:])
    flat = torch.zeros(indices.shape[:-1], dtype=torch.long, device=x.device)
    for axis in range(depth):
        flat = flat * x.shape[axis] + _wrapped(indices[..., axis], x.shape[axis])
    rows = x.reshape(-1, *tail)
    places = flat.reshape(-1, *[1] * len(tail)).expand(-1, *tail)
    values = updates.reshape(-1, *tail).to(x.dtype)
    how = node.text("reduction", "none")
    if how == "none":
        return rows.scatter(0, places, values).reshape(x.shape)
    return rows.scatter_reduce(0, places, values, _reduction(node, how)).reshape(x.shape)


def _reduction(node: Node, how: str) -> str:
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    if how not in names:
        raise UnsupportedOperator(f"{node.title} with reduction {how!r}")
    return names[how]


@TABLE.add("ReverseSequence")
def _reverse_sequence(node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    time, batch = node.integer("time_axis", 0), node.integer("batch_axis", 1)
    steps = torch.arange(x.shape[time], device=x.device)[:, None]
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)  # (T, N)
    index = index if time < batch else index.mT
    index = index.reshape(*index.shape, *[1] * (x.dim() - 2)).expand(x.shape)
    return torch.gather(x, time, index)


@TABLE.add("Compress")
def _compress(node: Node, x: Tensor, condition: Tensor) -> Tensor:
    axis = node.get("axis")
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    kept = torch.nonzero(condition).reshape(-1)
    return x.index_select(axis, kept)
