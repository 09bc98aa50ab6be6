"""Pointwise arithmetic, comparisons and logic, with the broadcasting of each opset."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.models.onnx.interpreter.host import Host
from cake_cli.models.onnx.interpreter.node import Node
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table()

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Det": torch.linalg.det,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
}


def _divide(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point() or b.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc").to(a.dtype)


def _power(a: Tensor, b: Tensor) -> Tensor:
    if b.numel() == 1 and b.dim() == 0 and a.is_floating_point():
        return torch.pow(a, b.to(a.dtype))
    if not a.is_floating_point():
        return torch.pow(a, b).to(a.dtype)
    # A graph that leaves NaN out afterwards (PowerTransformer) must not get NaN as gradient either.
    defined = (a >= 0) | (b == b.floor() if b.is_floating_point() else torch.ones_like(b, dtype=torch.bool))
    power = torch.pow(torch.where(defined, a, torch.ones_like(a)), b).to(a.dtype)
    return torch.where(defined, power, torch.full_like(power, math.nan))


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divide,
    "Pow": _power,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Equal": torch.eq,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
}


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Node, Tensor], Tensor]:
    return lambda node, x: function(x)


def align(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """`b` as the `broadcast` and `axis` attributes of opset 6 and older mean it."""
    if node.opset >= 7 or not node.flag("broadcast") or b.dim() == 0:
        return b
    axis = node.integer("axis", a.dim() - b.dim())
    axis = axis + a.dim() if axis < 0 else axis
    return b.reshape(*b.shape, *[1] * (a.dim() - axis - b.dim()))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Node, Tensor, Tensor], Tensor]:
    return lambda node, a, b: function(a, align(node, a, b))


for name, unary in UNARY.items():
    TABLE.add(name)(_unary(unary))
for name, binary in BINARY.items():
    TABLE.add(name)(_binary(binary))


@TABLE.add("Mod")
def _mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if node.flag("fmod") else torch.remainder(a, b)


@TABLE.add("IsInf")
def _isinf(node: Node, x: Tensor) -> Tensor:
    up, down = node.flag("detect_positive", True), node.flag("detect_negative", True)
    return torch.isinf(x) & (((x > 0) & up) | ((x < 0) & down))


@TABLE.add("Sum")
def _total(node: Node, *parts: Tensor) -> Tensor:
    return reduce(torch.add, parts)


@TABLE.add("Mean")
def _mean(node: Node, *parts: Tensor) -> Tensor:
    return reduce(torch.add, parts) / len(parts)


@TABLE.add("Max")
def _maximum(node: Node, *parts: Tensor) -> Tensor:
    return reduce(torch.maximum, parts)


@TABLE.add("Min")
def _minimum(node: Node, *parts: Tensor) -> Tensor:
    return reduce(torch.minimum, parts)


@TABLE.add("Clip", scalars=[1, 2])
def _clip(node: Node, x: Tensor, low: Tensor | Host | None = None, high: Tensor | Host | None = None) -> Tensor:
    if node.opset < 11:
        least, greatest = node.get("min"), node.get("max")
        return x if least is None and greatest is None else torch.clamp(x, least, greatest)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        limits = [limit.tensor(x) if isinstance(limit, Host) else limit for limit in (low, high)]
        x = x if limits[0] is None else torch.maximum(x, limits[0].to(x.dtype))
        return x if limits[1] is None else torch.minimum(x, limits[1].to(x.dtype))
    least, greatest = (None if limit is None else limit.item() for limit in (low, high))
    if least is None or greatest is None:
        return x if least is None and greatest is None else torch.clamp(x, least, greatest)
    if least > greatest:
        return torch.full_like(x, greatest)
    if x.is_floating_point() and least < greatest:
        return F.hardtanh(x, least, greatest)  # a ReLU6 costs a fraction of a clamp
    return torch.clamp(x, least, greatest)


@TABLE.add("Where")
def _where(node: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition.bool(), a, b)


@TABLE.add("Identity")
def _identity(node: Node, x: Tensor) -> Tensor:
    return x


@TABLE.add("CumSum")
def _cumsum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    return _scan(node, x, axis, torch.cumsum, 0)


@TABLE.add("CumProd")
def _cumprod(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    return _scan(node, x, axis, torch.cumprod, 1)


def _scan(node: Node, x: Tensor, axis: Tensor, scan: Callable[..., Tensor], start: int) -> Tensor:
    where = int(axis)
    x = x.flip(where) if node.flag("reverse") else x
    if node.flag("exclusive"):
        first = torch.full_like(x.narrow(where, 0, 1), start)
        x = torch.cat([first, x.narrow(where, 0, x.shape[where] - 1)], where)
    result = scan(x, where, dtype=x.dtype)
    return result.flip(where) if node.flag("reverse") else result
