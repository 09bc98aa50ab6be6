"""Operators that rearrange without computing: reshape, transpose, concatenate, pad, ..."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.models.onnx.interpreter.host import Host, check_size
from cake_cli.models.onnx.interpreter.node import Node, torch_dtype
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table()


@TABLE.add("Shape")
def _shape(node: Node, x: Tensor) -> Host:
    sizes = list(x.shape)
    return Host.vector(sizes[node.integer("start", 0) : node.get("end")])


@TABLE.add("Size")
def _size(node: Node, x: Tensor) -> Host:
    return Host.scalar(math.prod(x.shape))


@TABLE.add("Reshape", host=[1])
def _reshape(node: Node, x: Tensor, target: Host | None = None) -> Tensor:
    sizes = list(target.ints) if target is not None else node.integers("shape") or []
    if not node.flag("allowzero"):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


@TABLE.add("Flatten")
def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.integer("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return (
        x.reshape(math.prod(x.shape[:axis]), -1)
        if x.numel()
        else x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    )


def _axes(node: Node, axes: Host | None) -> list[int] | None:
    return axes.ints if axes is not None else node.integers("axes")


@TABLE.add("Squeeze", host=[1])
def _squeeze(node: Node, x: Tensor, axes: Host | None = None) -> Tensor:
    where = _axes(node, axes)
    if where is None:
        return x.squeeze()
    where = [axis % x.dim() for axis in where]
    if any(x.shape[axis] != 1 for axis in where):
        raise ValueError(f"cannot squeeze axes {where} of {list(x.shape)}")
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in where])


@TABLE.add("Unsqueeze", host=[1])
def _unsqueeze(node: Node, x: Tensor, axes: Host | None = None) -> Tensor:
    where = _axes(node, axes) or []
    rank = x.dim() + len(where)
    for axis in sorted(axis % rank for axis in where):
        x = x.unsqueeze(axis)
    return x


@TABLE.add("Transpose")
def _transpose(node: Node, x: Tensor) -> Tensor:
    order = node.integers("perm")
    return x.permute(order if order is not None else list(reversed(range(x.dim()))))


@TABLE.add("Concat")
def _concat(node: Node, *parts: Tensor) -> Tensor:
    return torch.cat(parts, node.integer("axis", 1))


@TABLE.add("Split", host=[1])
def _split(node: Node, x: Tensor, sizes: Host | None = None) -> tuple[Tensor, ...]:
    axis = node.integer("axis", 0)
    lengths = sizes.ints if sizes is not None else node.integers("split")
    if lengths is None:
        count = node.integer("num_outputs", len(node.outputs))
        chunk = -(-x.shape[axis] // count)
        lengths = [chunk] * (count - 1) + [x.shape[axis] - chunk * (count - 1)]
    return torch.split(x, lengths, axis)


@TABLE.add("Slice", host=[1, 2, 3, 4])
def _slice(
    node: Node,
    x: Tensor,
    starts: Host | None = None,
    ends: Host | None = None,
    axes: Host | None = None,
    steps: Host | None = None,
) -> Tensor:
    first = starts.ints if starts is not None else node.integers("starts") or []
    last = ends.ints if ends is not None else node.integers("ends") or []
    where = _axes(node, axes) or list(range(len(first)))
    strides = steps.ints if steps is not None else [1] * len(first)
    for axis, begin, end, stride in zip(where, first, last, strides, strict=True):
        if stride > 0:
            index = [slice(None)] * (axis % x.dim()) + [slice(begin, end, stride)]
            x = x[tuple(index)]
        else:
            size = x.shape[axis]
            kept = range(size)[slice(max(begin, -size), None if end < -size else end, stride)]
            x = x.index_select(axis, torch.tensor(list(kept), dtype=torch.long, device=x.device))
    return x


@TABLE.add("Expand", host=[1])
def _expand(node: Node, x: Tensor, target: Host) -> Tensor:
    sizes: tuple[int, ...] = torch.broadcast_shapes(x.shape, tuple(target.ints))  # type: ignore[no-untyped-call]
    check_size(sizes)
    return x.expand(sizes)


@TABLE.add("Tile", host=[1, 2])
def _tile(node: Node, x: Tensor, repeats: Host, axis: Host | None = None) -> Tensor:
    counts = repeats.ints
    if node.opset < 6 and axis is not None:
        counts = [counts[0] if index == axis.item() else 1 for index in range(x.dim())]
    check_size([size * count for size, count in zip(x.shape, counts, strict=True)])
    return x.repeat(*counts)


@TABLE.add("Pad", host=[1, 3])
def _pad(
    node: Node, x: Tensor, pads: Host | None = None, value: Tensor | None = None, axes: Host | None = None
) -> Tensor:
    amounts = pads.ints if pads is not None else node.integers("pads") or node.integers("paddings") or []
    where = [axis % x.dim() for axis in axes.ints] if axes is not None else list(range(x.dim()))
    before, after = dict(zip(where, amounts, strict=False)), dict(zip(where, amounts[len(where) :], strict=True))
    check_size([size + before.get(axis, 0) + after.get(axis, 0) for axis, size in enumerate(x.shape)])
    mode = node.text("mode", "constant")
    if mode == "constant":
        widths = [width for axis in reversed(range(x.dim())) for width in (before.get(axis, 0), after.get(axis, 0))]
        if value is None:
            return F.pad(x, widths, value=node.number("value"))
        if value.is_floating_point() and not value.any():
            return F.pad(x, widths)
        inside = F.pad(torch.ones_like(x, dtype=torch.bool), widths)
        return torch.where(inside, F.pad(x, widths), value.to(x.dtype))
    for axis in where:
        x = x.index_select(axis, _mirrored(mode, x.shape[axis], before[axis], after[axis]).to(x.device))
    return x


def _mirrored(mode: str, size: int, before: int, after: int) -> Tensor:
    """Which element each padded position shows, for the modes that show an element; what is cut off shows nowhere."""
    first = max(-before, 0)
    size -= first + max(-after, 0)
    positions = torch.arange(-max(before, 0), size + max(after, 0))
    if mode == "edge":
        return first + positions.clamp(0, size - 1)
    if mode == "wrap":
        return first + positions % size
    if mode == "reflect":
        period = max(2 * (size - 1), 1)
        folded = positions % period
        return first + torch.where(folded < size, folded, period - folded)
    raise ValueError(f"padding mode {mode!r}")


@TABLE.add("DepthToSpace")
def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    block = node.integer("blocksize")
    n, c, h, w = x.shape
    depth = c // block**2
    if node.text("mode", "DCR") == "DCR":
        x = x.reshape(n, block, block, depth, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, depth, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, depth, h * block, w * block)


@TABLE.add("SpaceToDepth")
def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    block = node.integer("blocksize")
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // block, block, w // block, block)
    order = (0, 3, 5, 1, 2, 4) if node.text("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return x.permute(*order).reshape(n, c * block**2, h // block, w // block)


@TABLE.add("Cast", like=True)
def _cast(node: Node, x: Tensor, like: Tensor) -> Tensor:
    return convert(x, torch_dtype(node.integer("to")), like)


@TABLE.add("CastLike", like=True)
def _cast_like(node: Node, x: Tensor, target: Tensor, like: Tensor) -> Tensor:
    return convert(x, target.dtype, like)


def convert(x: Tensor, dtype: torch.dtype, like: Tensor) -> Tensor:
    """A cast; float32 in the file means the precision that the module has been moved to."""
    if dtype is torch.float32 and like.is_floating_point():
        dtype = like.dtype
    return x.to(dtype)


@TABLE.add("CenterCropPad", host=[1])
def _center_crop_pad(node: Node, x: Tensor, target: Host) -> Tensor:
    where = node.integers("axes") or list(range(x.dim()))
    for axis, size in zip(where, target.ints, strict=True):
        excess = x.shape[axis] - size
        if excess > 0:
            x = x.narrow(axis, excess // 2, size)
        elif excess < 0:
            widths = [0, 0] * (x.dim() - 1 - axis % x.dim()) + [-excess // 2, -excess - (-excess // 2)]
            x = F.pad(x, widths)
    return x
