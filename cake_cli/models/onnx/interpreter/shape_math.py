"""Arithmetic on shapes: the operators that exporters put between `Shape` and `Reshape`, on host values.

A function returns None where a case is not covered; the interpreter then computes with tensors.
"""

from __future__ import annotations

import operator as py
from collections.abc import Callable

import torch

from cake_cli.models.onnx.interpreter.host import HOST_LIMIT, Host, Number
from cake_cli.models.onnx.interpreter.node import Node, tensor_from_proto, torch_dtype

HostFunction = Callable[..., Host | None]
SHAPE_MATH: dict[str, HostFunction] = {}
"""Operator name to its host function: `function(node, *hosts)`."""


def _enter(name: str) -> Callable[[HostFunction], HostFunction]:
    def enter(function: HostFunction) -> HostFunction:
        SHAPE_MATH[name] = function
        return function

    return enter


def _divide(a: Number, b: Number) -> Number:
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    quotient = abs(a) // abs(b)
    return quotient if (a >= 0) == (b >= 0) else -quotient


def _modulo(a: Number, b: Number) -> Number:
    return a % b


def _broadcast(a: Host, b: Host) -> tuple[tuple[Number, ...], tuple[Number, ...], tuple[int, ...]] | None:
    if a.shape == b.shape:
        return a.values, b.values, a.shape
    if len(a.values) == 1 and len(a.shape) <= len(b.shape):
        return a.values * len(b.values), b.values, b.shape
    if len(b.values) == 1 and len(b.shape) <= len(a.shape):
        return a.values, b.values * len(a.values), a.shape
    return None


def _binary(function: Callable[[Number, Number], Number], boolean: bool = False) -> HostFunction:
    def compute(node: Node, a: Host, b: Host) -> Host | None:
        if node.operator == "Mod" and node.integer("fmod"):
            return None
        aligned = _broadcast(a, b)
        if aligned is None:
            return None
        left, right, shape = aligned
        dtype = torch.bool if boolean else torch.promote_types(a.dtype, b.dtype)
        return Host(tuple(function(x, y) for x, y in zip(left, right, strict=True)), shape, dtype)

    return compute


def _folded(function: Callable[[Number, Number], Number]) -> HostFunction:
    """Of any number of values, two at a time."""
    pair = _binary(function)

    def compute(node: Node, first: Host, *others: Host) -> Host | None:
        result: Host | None = first
        for other in others:
            result = None if result is None else pair(node, result, other)
        return result

    return compute


SHAPE_MATH |= {
    "Add": _binary(py.add),
    "Sub": _binary(py.sub),
    "Mul": _binary(py.mul),
    "Div": _binary(_divide),
    "Mod": _binary(_modulo),
    "Min": _folded(min),
    "Max": _folded(max),
    "Equal": _binary(py.eq, boolean=True),
    "Less": _binary(py.lt, boolean=True),
    "Greater": _binary(py.gt, boolean=True),
    "LessOrEqual": _binary(py.le, boolean=True),
    "GreaterOrEqual": _binary(py.ge, boolean=True),
    "And": _binary(lambda a, b: bool(a) and bool(b), boolean=True),
    "Or": _binary(lambda a, b: bool(a) or bool(b), boolean=True),
}


@_enter("Not")
def _not(node: Node, a: Host) -> Host:
    return Host(tuple(not value for value in a.values), a.shape, torch.bool)


@_enter("Neg")
def _neg(node: Node, a: Host) -> Host:
    return Host(tuple(-value for value in a.values), a.shape, a.dtype)


@_enter("Identity")
def _identity(node: Node, a: Host) -> Host:
    return a


@_enter("Cast")
def _cast(node: Node, a: Host) -> Host:
    dtype = torch_dtype(node.integer("to"))
    if dtype is torch.bool:
        return Host(tuple(bool(value) for value in a.values), a.shape, dtype)
    if dtype.is_floating_point:
        return Host(tuple(float(value) for value in a.values), a.shape, dtype)
    return Host(tuple(a.ints), a.shape, dtype)


@_enter("Where")
def _where(node: Node, condition: Host, a: Host, b: Host) -> Host | None:
    shape = max(condition.shape, a.shape, b.shape, key=len)
    size = max(len(condition.values), len(a.values), len(b.values))
    if any(len(host.values) not in (1, size) for host in (condition, a, b)) or len(shape) > 1:
        return None
    columns = [host.values * (size // len(host.values)) for host in (condition, a, b)]
    return Host(tuple(x if c else y for c, x, y in zip(*columns, strict=True)), shape, a.dtype)


@_enter("Concat")
def _concat(node: Node, *parts: Host) -> Host | None:
    if any(len(part.shape) != 1 for part in parts):
        return None
    values = tuple(value for part in parts for value in part.values)
    return Host(values, (len(values),), parts[0].dtype)


@_enter("Gather")
def _gather(node: Node, data: Host, indices: Host) -> Host | None:
    if len(data.shape) != 1 or len(indices.shape) > 1:
        return None
    return Host(tuple(data.values[index] for index in indices.ints), indices.shape, data.dtype)


@_enter("Slice")
def _slice(
    node: Node,
    data: Host,
    starts: Host | None = None,
    ends: Host | None = None,
    axes: Host | None = None,
    steps: Host | None = None,
) -> Host | None:
    if len(data.shape) != 1:
        return None
    start = starts.ints if starts is not None else node.integers("starts") or []
    end = ends.ints if ends is not None else node.integers("ends") or []
    step = steps.ints if steps is not None else [1]
    if len(start) != 1 or len(end) != 1 or step[0] < 1:
        return None
    values = data.values[start[0] : end[0] : step[0]]
    return Host(values, (len(values),), data.dtype)


@_enter("Unsqueeze")
def _unsqueeze(node: Node, data: Host, axes: Host | None = None) -> Host | None:
    where = axes.ints if axes is not None else node.integers("axes") or []
    return data.with_shape((1,)) if data.shape == () and len(where) == 1 else None


@_enter("Squeeze")
def _squeeze(node: Node, data: Host, axes: Host | None = None) -> Host | None:
    return data.with_shape(()) if data.shape == (1,) else None


@_enter("Reshape")
def _reshape(node: Node, data: Host, shape: Host) -> Host | None:
    target = shape.ints
    if target in ([-1], [len(data.values)]):
        return data.with_shape((len(data.values),))
    return data.with_shape(()) if not target and len(data.values) == 1 else None


@_enter("ReduceProd")
def _reduce_prod(node: Node, data: Host, axes: Host | None = None) -> Host | None:
    if len(data.shape) > 1:
        return None
    product: Number = 1
    for value in data.values:
        product = product * value
    return Host((product,), (1,) if data.shape and node.flag("keepdims", True) else (), data.dtype)


@_enter("ConstantOfShape")
def _constant_of_shape(node: Node, shape: Host) -> Host | None:
    sizes = shape.ints
    value = node.get("value")
    if len(sizes) != 1 or sizes[0] > HOST_LIMIT or value is None:
        return None
    fill = tensor_from_proto(value)
    return None if fill.is_floating_point() else Host((fill.item(),) * sizes[0], (sizes[0],), fill.dtype)
