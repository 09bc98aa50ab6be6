"""Pools, local and global."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.models.onnx.interpreter.host import Host
from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator
from cake_cli.models.onnx.interpreter.operators.window import Window
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table()

MAXIMUM: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
CONVOLUTION: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _window(node: Node, x: Tensor) -> tuple[Window, list[int]]:
    window = Window.of(node, x.shape[2:], node.integers("kernel_shape") or [])
    if len(window.kernel) not in MAXIMUM:
        raise UnsupportedOperator(f"{node.title} over {len(window.kernel)} axes")
    more = window.rounded_up(x.shape[2:]) if node.flag("ceil_mode") else [0] * len(window.kernel)
    return window, more


@TABLE.add("MaxPool")
def _max_pool(node: Node, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    window, more = _window(node, x)
    pool = MAXIMUM[len(window.kernel)]
    if len(node.outputs) > 1 and node.outputs[1]:
        return _max_pool_with_places(node, x, window, more)
    kind, x = x.dtype, x if x.is_floating_point() else x.double()
    torch_pads = window.symmetric and all(2 * pad <= k for pad, k in zip(window.before, window.kernel, strict=True))
    if torch_pads and not any(more):
        return pool(x, window.kernel, window.strides, window.before, window.dilations).to(kind)
    x = window.pad(x, -math.inf, more)
    return pool(x, window.kernel, window.strides, 0, window.dilations).to(kind)


def _max_pool_with_places(node: Node, x: Tensor, window: Window, more: list[int]) -> tuple[Tensor, Tensor]:
    """With the flat place of each maximum in the unpadded input, over all axes."""
    padded = window.pad(x, -math.inf, more)
    pool = MAXIMUM[len(window.kernel)]
    values, places = pool(padded, window.kernel, window.strides, 0, window.dilations, return_indices=True)
    coordinates = []
    for axis in reversed(range(len(window.kernel))):
        size = padded.shape[2 + axis]
        coordinates.append(places % size - window.before[axis])
        places = places // size
    coordinates.reverse()
    order = list(range(len(coordinates)))
    order = order[::-1] if node.flag("storage_order") else order
    flat = torch.zeros_like(places)
    for axis in order:
        flat = flat * x.shape[2 + axis] + coordinates[axis]
    rows = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(x.shape[0], x.shape[1])
    first = rows * math.prod(x.shape[2:])
    return values, flat + first.reshape(*first.shape, *[1] * len(window.kernel))


@TABLE.add("AveragePool")
def _average_pool(node: Node, x: Tensor) -> Tensor:
    window, more = _window(node, x)
    padded_counts = node.flag("count_include_pad")
    axes = len(window.kernel)
    plain = all(dilation == 1 for dilation in window.dilations) and not any(more)
    torch_pads = window.symmetric and all(2 * pad <= k for pad, k in zip(window.before, window.kernel, strict=True))
    if plain and torch_pads:
        return AVERAGE[axes](
            x, window.kernel, window.strides, window.before, count_include_pad=padded_counts, ceil_mode=False
        )
    total = _window_sum(window.pad(x, 0.0, more), window)
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if padded_counts:
        ones = F.pad(window.pad(ones, 1.0), [width for extra in reversed(more) for width in (0, extra)])
    else:
        ones = window.pad(ones, 0.0, more)
    return total / _window_sum(ones, window)


def _window_sum(x: Tensor, window: Window) -> Tensor:
    """The sum over each window of a padded (N, C, ...)."""
    axes = len(window.kernel)
    single = x.reshape(-1, 1, *x.shape[2:])  # (N C, 1, ...)
    ones = torch.ones((1, 1, *window.kernel), dtype=x.dtype, device=x.device)
    sums = CONVOLUTION[axes](single, ones, None, window.strides, 0, window.dilations)
    return sums.reshape(*x.shape[:2], *sums.shape[2:])


@TABLE.add("LpPool")
def _lp_pool(node: Node, x: Tensor) -> Tensor:
    window, more = _window(node, x)
    power = node.number("p", 2)
    return _window_sum(window.pad(x.abs().pow(power), 0.0, more), window).pow(1 / power)


def _space(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


@TABLE.add("GlobalAveragePool")
def _global_average_pool(node: Node, x: Tensor) -> Tensor:
    return x.mean(_space(x), keepdim=True)


@TABLE.add("GlobalMaxPool")
def _global_max_pool(node: Node, x: Tensor) -> Tensor:
    return x.amax(_space(x), keepdim=True)


@TABLE.add("GlobalLpPool")
def _global_lp_pool(node: Node, x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, node.number("p", 2), _space(x), keepdim=True)
    return norm


@TABLE.add("MaxUnpool", host=[2])
def _max_unpool(node: Node, x: Tensor, places: Tensor, target: Host | None = None) -> Tensor:
    kernel = node.integers("kernel_shape") or []
    strides = node.integers("strides") or [1] * len(kernel)
    pads = node.integers("pads") or [0] * (2 * len(kernel))
    own = [
        (size - 1) * stride - pads[axis] - pads[axis + len(kernel)] + width
        for axis, (size, stride, width) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
    ]
    flat = torch.zeros(math.prod(x.shape[:2]) * math.prod(own), dtype=x.dtype, device=x.device)
    small = flat.scatter(0, places.flatten(), x.flatten()).reshape(*x.shape[:2], *own)
    if target is None or target.ints[2:] == own:
        return small
    widths = [width for axis in reversed(range(len(own))) for width in (0, target.ints[2 + axis] - own[axis])]
    return F.pad(small, widths)
