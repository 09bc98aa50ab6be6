"""Windows that slide over space, shared by convolutions and pools: strides, dilations, padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from cake_cli.models.onnx.interpreter.node import Node


@dataclass(frozen=True)
class Window:
    """A sliding window over S spatial axes; every list has S entries."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]

    @classmethod
    def of(cls, node: Node, sizes: Sequence[int], kernel: list[int]) -> Window:
        """Reads a node's window; `auto_pad` becomes explicit for inputs of `sizes`."""
        axes = len(kernel)
        strides = node.integers("strides") or [1] * axes
        dilations = node.integers("dilations") or [1] * axes
        pads = node.integers("pads") or [0] * (2 * axes)
        before, after = pads[:axes], pads[axes:]
        mode = node.text("auto_pad", "NOTSET")
        if mode == "VALID":
            before, after = [0] * axes, [0] * axes
        elif mode.startswith("SAME"):
            totals = [
                max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
                for size, stride, width, dilation in zip(sizes, strides, kernel, dilations, strict=True)
            ]
            small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
            before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
        return cls(kernel, strides, dilations, before, after)

    @property
    def symmetric(self) -> bool:
        """Whether both sides are padded alike, as torch's own functions do."""
        return self.before == self.after

    def rounded_up(self, sizes: Sequence[int]) -> list[int]:
        """What more to pad at the end so that a last partial window counts (`ceil_mode`)."""
        extra = []
        for axis, size in enumerate(sizes):
            padded = size + self.before[axis] + self.after[axis]
            span = self.dilations[axis] * (self.kernel[axis] - 1) + 1
            count = -(-(padded - span) // self.strides[axis]) + 1
            if (count - 1) * self.strides[axis] >= size + self.before[axis]:
                count -= 1  # a window that starts in the padding after the input does not count
            extra.append(max((count - 1) * self.strides[axis] + span - padded, 0))
        return extra

    def pad(self, x: Tensor, value: float, more: Sequence[int] | None = None) -> Tensor:
        """The input with its padding, and `more` at the end."""
        extra = more or [0] * len(self.kernel)
        widths = [
            width
            for axis in reversed(range(len(self.kernel)))
            for width in (self.before[axis], self.after[axis] + extra[axis])
        ]
        return F.pad(x, widths, value=value) if any(widths) else x
