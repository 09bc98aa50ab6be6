"""Operators that make a tensor from shapes and numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cake_cli.models.onnx.interpreter.host import Host, check_size
from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator, tensor_from_proto, torch_dtype
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table()


@TABLE.add("Constant")
def _constant(node: Node) -> Tensor:
    if node.get("value") is not None:
        return tensor_from_proto(node.get("value"))
    for key, dtype in (("value_float", torch.float32), ("value_int", torch.int64)):
        if node.get(key) is not None:
            return torch.tensor(node.get(key), dtype=dtype)
    for key, dtype in (("value_floats", torch.float32), ("value_ints", torch.int64)):
        if node.get(key) is not None:
            return torch.tensor(list(node.get(key)), dtype=dtype)
    raise UnsupportedOperator(f"{node.title} of {', '.join(node.attributes) or 'nothing'}")


@TABLE.add("ConstantOfShape", host=[0], like=True)
def _constant_of_shape(node: Node, sizes: Host, like: Tensor) -> Tensor:
    check_size(sizes.ints)
    value = node.get("value")
    fill = tensor_from_proto(value) if value is not None else torch.zeros(1)
    dtype = like.dtype if fill.dtype is torch.float32 else fill.dtype
    return torch.full(sizes.ints, fill.item(), dtype=dtype, device=like.device)


@TABLE.add("Range", host=[0, 1, 2], like=True)
def _range(node: Node, start: Host, limit: Host, delta: Host, like: Tensor) -> Tensor:
    first, last, stride = start.item(), limit.item(), delta.item()
    count = max(0, math.ceil((last - first) / stride))
    check_size([count])
    steps = torch.arange(count, device=like.device, dtype=start.dtype)
    return first + steps * stride


@TABLE.add("DequantizeLinear", like=True)
def _dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None, *, like: Tensor) -> Tensor:
    """Weights that are stored as integers; quantised activations are refused before."""
    axis, block = node.integer("axis", 1), node.integer("block_size")
    values = x.to(like.dtype)
    if zero is not None:
        values = values - _along(zero, x, axis, block).to(like.dtype)
    return values * _along(scale, x, axis, block).to(like.dtype)


def _along(part: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point to go with x: one, one for each place of an axis, or one for each block of places."""
    if block:
        return part.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if part.numel() == 1:
        return part.reshape([1] * x.dim())
    shape = [1] * x.dim()
    shape[axis] = -1
    return part.reshape(shape)


@TABLE.add("EyeLike")
def _eye_like(node: Node, x: Tensor) -> Tensor:
    dtype = torch_dtype(node.integer("dtype")) if node.get("dtype") else x.dtype
    rows, columns = x.shape
    offset = torch.arange(columns, device=x.device) - torch.arange(rows, device=x.device)[:, None]
    return (offset == node.integer("k")).to(dtype)


@TABLE.add("OneHot", host=[1])
def _one_hot(node: Node, indices: Tensor, depth: Host, values: Tensor) -> Tensor:
    axis = node.integer("axis", -1)
    classes = int(depth.item())
    check_size([*indices.shape, classes])
    axis = axis + indices.dim() + 1 if axis < 0 else axis
    index = torch.where(indices < 0, indices + classes, indices).long().unsqueeze(axis)
    slots = torch.arange(classes, device=indices.device)
    slots = slots.reshape([classes if place == axis else 1 for place in range(indices.dim() + 1)])
    return torch.where(index == slots, values[1], values[0])


@TABLE.add("Trilu", host=[1])
def _trilu(node: Node, x: Tensor, k: Host | None = None) -> Tensor:
    diagonal = int(k.item()) if k is not None else 0
    return torch.triu(x, diagonal) if node.flag("upper", True) else torch.tril(x, diagonal)
