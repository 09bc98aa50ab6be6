"""Reductions over axes, arg-max and top-k."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cake_cli.models.onnx.interpreter.host import Host
from cake_cli.models.onnx.interpreter.node import Node
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table()


def _norm(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.linalg.vector_norm(x, 2, axes, keep) if x.is_floating_point() else _root(x, axes, keep)


def _root(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.square().sum(axes, keepdim=keep).double().sqrt().to(x.dtype)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def _extreme(x: Tensor, axes: list[int], keep: bool, *, largest: bool) -> Tensor:
    if x.dtype is torch.bool:
        return _extreme(x.to(torch.uint8), axes, keep, largest=largest).bool()
    if any(x.shape[axis] == 0 for axis in axes):
        empty = (
            float("-inf" if largest else "inf")
            if x.is_floating_point()
            else (torch.iinfo(x.dtype).min if largest else torch.iinfo(x.dtype).max)
        )
        kept = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes]
        return torch.full(kept, empty, dtype=x.dtype, device=x.device)
    return torch.amax(x, axes, keep) if largest else torch.amin(x, axes, keep)


REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: _extreme(x, axes, keep, largest=True),
    "ReduceMin": lambda x, axes, keep: _extreme(x, axes, keep, largest=False),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceL2": _norm,
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
}


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    def reduce(node: Node, x: Tensor, axes: Host | None = None) -> Tensor:
        where = axes.ints if axes is not None else node.integers("axes") or []
        if not where:
            if node.flag("noop_with_empty_axes"):
                return _alone(function, x)
            where = list(range(x.dim()))
        if x.dim() == 0:
            return _alone(function, x)
        return function(x, [axis % x.dim() for axis in where], node.flag("keepdims", True))

    return reduce


def _alone(function: Callable[[Tensor, list[int], bool], Tensor], x: Tensor) -> Tensor:
    """Each element as a reduction over itself alone."""
    return function(x.unsqueeze(-1), [x.dim()], False)


for name, reduction in REDUCTIONS.items():
    TABLE.add(name, host=[1])(_reduction(reduction))


def _arg(node: Node, x: Tensor, *, largest: bool) -> Tensor:
    axis = node.integer("axis", 0)
    last = node.flag("select_last_index")
    x = x.flip(axis) if last else x
    index = x.argmax(axis, keepdim=True) if largest else x.argmin(axis, keepdim=True)
    index = x.shape[axis] - 1 - index if last else index
    return index if node.flag("keepdims", True) else index.squeeze(axis)


@TABLE.add("ArgMax")
def _argmax(node: Node, x: Tensor) -> Tensor:
    return _arg(node, x, largest=True)


@TABLE.add("ArgMin")
def _argmin(node: Node, x: Tensor) -> Tensor:
    return _arg(node, x, largest=False)


@TABLE.add("TopK", host=[1])
def _top_k(node: Node, x: Tensor, k: Host | None = None) -> tuple[Tensor, Tensor]:
    count = int(k.item()) if k is not None else node.integer("k")
    axis = node.integer("axis", -1)
    order = torch.sort(x, dim=axis, descending=node.flag("largest", True), stable=True)
    return order.values.narrow(axis, 0, count), order.indices.narrow(axis, 0, count)
