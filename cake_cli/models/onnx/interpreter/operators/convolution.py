"""Convolutions, forward and transposed, over one, two and three spatial axes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator
from cake_cli.models.onnx.interpreter.operators.window import Window
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table()

FORWARD: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


@TABLE.add("Conv")
def convolution(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution of (N, C, ...) over one, two or three axes."""
    window = Window.of(node, x.shape[2:], list(weight.shape[2:]))
    function = _choose(FORWARD, node, len(window.kernel))
    if window.symmetric:
        padding = window.before
    else:
        x, padding = window.pad(x, 0.0), [0] * len(window.kernel)
    return function(x, weight, bias, window.strides, padding, window.dilations, node.integer("group", 1))


@TABLE.add("ConvTranspose")
def _transposed_convolution(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel = list(weight.shape[2:])
    axes = len(kernel)
    function = _choose(TRANSPOSED, node, axes)
    strides = node.integers("strides") or [1] * axes
    dilations = node.integers("dilations") or [1] * axes
    more = node.integers("output_padding") or [0] * axes
    full = [
        strides[axis] * (x.shape[2 + axis] - 1) + more[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        for axis in range(axes)
    ]
    before, after = _cropped(node, list(x.shape[2:]), strides, full)
    # Everything is computed, then cut: ONNX crops each side by its own amount.
    y = function(x, weight, None, strides, 0, 0, node.integer("group", 1), dilations)
    widths = [width for axis in reversed(range(axes)) for width in (-before[axis], more[axis] - after[axis])]
    y = F.pad(y, widths)
    return y if bias is None else y + bias.reshape(-1, *[1] * axes)


def _cropped(node: Node, sizes: list[int], strides: list[int], full: list[int]) -> tuple[list[int], list[int]]:
    """How much of the full output each side loses."""
    axes = len(sizes)
    wanted = node.integers("output_shape")
    mode = node.text("auto_pad", "NOTSET")
    if wanted is None and mode.startswith("SAME"):
        wanted = [min(size * stride, most) for size, stride, most in zip(sizes, strides, full, strict=True)]
    if wanted is None:
        pads = node.integers("pads") or [0] * (2 * axes)
        return (pads[:axes], pads[axes:]) if mode != "VALID" else ([0] * axes, [0] * axes)
    totals = [size - target for size, target in zip(full, wanted[-axes:], strict=True)]
    odd = 0 if mode == "SAME_UPPER" else 1
    before = [(max(0, total) + odd) // 2 for total in totals]  # what is missing is added behind
    return before, [total - first for total, first in zip(totals, before, strict=True)]


@TABLE.add("DeformConv")
def _deformable_convolution(
    node: Node, x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    from torchvision.ops import deform_conv2d

    window = Window.of(node, x.shape[2:], list(weight.shape[2:]))
    if len(window.kernel) != 2 or not window.symmetric:
        raise UnsupportedOperator(f"{node.title} with this padding")
    result: Tensor = deform_conv2d(
        x, offset, weight, bias, _pair(window.strides), _pair(window.before), _pair(window.dilations), mask
    )
    return result


def _pair(sizes: list[int]) -> tuple[int, int]:
    return sizes[0], sizes[1]


def _choose(functions: dict[int, Callable[..., Tensor]], node: Node, axes: int) -> Callable[..., Tensor]:
    if axes not in functions:
        raise UnsupportedOperator(f"{node.title} over {axes} axes")
    return functions[axes]
