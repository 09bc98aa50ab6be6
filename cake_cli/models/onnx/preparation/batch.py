"""The batch size that an exporter wrote into a graph, and how to write it out again.

The shapes of all values are observed once at the declared batch. From the input on, each value is given
the axis along which its rows lie (a batch of B that has been merged with other axes, as in (B x heads, ...),
still lies there, as the slowest part of that axis). Constant targets that name this axis then let it open.

Whether the result is right is measured afterwards: rows in a batch must equal rows alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper

from cake_cli.models.onnx.interpreter import GraphError, Observer, UnsupportedOperator
from cake_cli.models.onnx.signature import Rows
from cake_cli.text import counted

Shapes = dict[str, tuple[int, ...]]


def free_batch(model: ModelProto, rows: Rows) -> None:
    """Declares the batch open, the rest of the input as known, and forgets shapes that may say otherwise."""
    tensor = model.graph.input[0].type.tensor_type
    tensor.ClearField("shape")
    tensor.shape.SetInParent()
    if rows.has_batch:
        tensor.shape.dim.add().dim_param = "batch"
    for length in rows.shape:
        tensor.shape.dim.add().dim_value = length
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")


def unbake_batch(model: ModelProto, rows: Rows) -> str | None:
    """Opens the batch in constant shapes.

    Args:
        model: prepared, with its batch declared open; changed in place.
        rows: with the batch size that the file declares (1 where it declares none).

    Returns:
        How many places were opened, or None if none was found.
    """
    if not rows.has_batch:
        return None
    batch = rows.declared or 1
    try:
        seen = Observer(model, torch.zeros(batch, *rows.shape))
    except (UnsupportedOperator, GraphError):
        return None
    count = _Opener(model, seen.shapes, seen.integers, batch).run()
    return f"the batch of {batch} written into {counted(count, 'shapes')} opened" if count else None


class Place(NamedTuple):
    """Where the rows of a value lie."""

    axis: int
    outer: int = 1
    """How many elements of the same axis come before one row goes over into the next: 17 in (17 x batch, 32)."""


class _Opener:
    """Follows the batch axis through a graph and opens it where a constant names it."""

    def __init__(self, model: ModelProto, shapes: Shapes, integers: dict[str, list[int]], batch: int) -> None:
        self.graph = model.graph
        self.opset = next((entry.version for entry in model.opset_import if entry.domain == ""), 1)
        self.shapes = shapes
        self.batch = batch
        self.places: dict[str, Place] = {model.graph.input[0].name: Place(0)}
        self.integers = integers
        self.nodes: list[NodeProto] = []
        self.count = 0

    def run(self) -> int:
        for node in list(self.graph.node):
            rule = RULES.get(node.op_type, _Opener._plain)
            batched = [name for name in node.input if name in self.places]
            if batched and node.output[0] in self.shapes:
                place = rule(self, node, batched[0])
                for name in node.output:
                    if place is not None and name in self.shapes and place.axis < len(self.shapes[name]):
                        self.places[name] = place
            self.nodes.append(node)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        return self.count

    # Rules: where the rows of a node's output lie, given the first input that has rows; None where they are lost.

    def _plain(self, node: NodeProto, name: str) -> Place | None:
        """Pointwise operators, products and everything that keeps the axis; ranks are aligned at the end."""
        source, target = self.shapes[name], self.shapes[node.output[0]]
        place = self.places[name]
        axis = place.axis + len(target) - len(source)
        kept = 0 <= axis < len(target) and target[axis] == source[place.axis]
        return Place(axis, place.outer) if kept else None

    def _leading(self, node: NodeProto, name: str) -> Place | None:
        return self.places[name] if self.places[name].axis == 0 else None

    def _transpose(self, node: NodeProto, name: str) -> Place | None:
        rank = len(self.shapes[name])
        order = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(reversed(range(rank))))
        place = self.places[name]
        return Place(order.index(place.axis), place.outer)

    def _flatten(self, node: NodeProto, name: str) -> Place | None:
        return self._after_reshape(self.shapes[name], self.places[name], self.shapes[node.output[0]])

    def _unsqueeze(self, node: NodeProto, name: str) -> Place | None:
        place, rank = self.places[name], len(self.shapes[node.output[0]])
        new = {axis % rank for axis in self._axes_of(node)}
        kept = [axis for axis in range(rank) if axis not in new]
        return Place(kept[place.axis], place.outer)

    def _squeeze(self, node: NodeProto, name: str) -> Place | None:
        place, rank = self.places[name], len(self.shapes[name])
        gone = {axis % rank for axis in self._axes_of(node)}
        if not gone:
            return self._flatten(node, name)
        return None if place.axis in gone else Place(place.axis - sum(a < place.axis for a in gone), place.outer)

    def _axes_of(self, node: NodeProto) -> list[int]:
        return self._integers(node, 1) or next((list(a.ints) for a in node.attribute if a.name == "axes"), [])

    def _reduce(self, node: NodeProto, name: str) -> Place | None:
        """Reductions: the axis moves left by as many axes before it as vanish."""
        rank, place = len(self.shapes[name]), self.places[name]
        reduced = {axis % rank for axis in self._axes_of(node)} or set(range(rank))
        if place.axis in reduced:
            return None
        gone = rank != len(self.shapes[node.output[0]])
        return Place(place.axis - sum(axis < place.axis for axis in reduced), place.outer) if gone else place

    def _gather(self, node: NodeProto, name: str) -> Place | None:
        """One axis gives way to those of the indices."""
        source, place = self.shapes[name], self.places[name]
        along = next((a.i for a in node.attribute if a.name == "axis"), 0) % len(source)
        if place.axis == along:
            return None
        more = len(self.shapes[node.output[0]]) - len(source)
        return place if place.axis < along else Place(place.axis + more, place.outer)

    def _reshape(self, node: NodeProto, name: str) -> Place | None:
        source, target = self.shapes[name], self.shapes[node.output[0]]
        place = self._after_reshape(source, self.places[name], target)
        if place is None:
            return None
        # The sizes of one row are known, so the target may as well be constant where it was computed.
        self._replace(node, 1, [-1 if axis == place.axis else size for axis, size in enumerate(target)])
        for attribute in list(node.attribute):
            if attribute.name == "allowzero":
                node.attribute.remove(attribute)
        return place

    def _after_reshape(self, source: Sequence[int], place: Place, target: Sequence[int]) -> Place | None:
        """Where the rows lie after a reshape: after as many elements as before, in an axis that holds them."""
        before = math.prod(source[: place.axis]) * place.outer
        found: list[Place] = []
        for axis, size in enumerate(target):
            start = math.prod(target[:axis])
            outer = before // start if start else 0
            if outer and before == start * outer and size % (outer * self.batch) == 0:
                found.append(Place(axis, outer))
        # (17, 1, 32) as (17, 32) is tokens x features: the rows join the tokens. As (17, 4, 8) they join the heads.
        found.sort(key=lambda one: one.outer, reverse=len(target) == 2 and len(source) > 2)
        return found[0] if found else None

    def _expand(self, node: NodeProto, name: str) -> Place | None:
        source, target = self.shapes[name], self.shapes[node.output[0]]
        place = self.places[name]
        axis = place.axis + len(target) - len(source)
        sizes = self._integers(node, 1)
        index = axis - (len(target) - len(sizes)) if sizes is not None else -1
        if sizes is not None and index >= 0 and sizes[index] == source[place.axis] != 1:
            sizes[index] = 1  # broadcasting keeps the rows of the other side
            self._replace(node, 1, sizes)
        return Place(axis, place.outer)

    def _concat(self, node: NodeProto, name: str) -> Place | None:
        """Rows that are the same for every image (a class token) are repeated for each."""
        place = self._plain(node, name)
        along = next((a.i for a in node.attribute if a.name == "axis"), 1) % len(self.shapes[name])
        if place is None or along == place.axis:
            return None
        for index, other in enumerate(node.input):
            shape = self.shapes.get(other)
            if other not in self.places and shape is not None and shape[place.axis] == self.batch == 1:
                node.input[index] = self._repeated(other, place.axis, name)
        return place

    def _resize(self, node: NodeProto, name: str) -> Place | None:
        sizes = self._integers(node, 3)
        if sizes is not None and len(sizes) == len(self.shapes[name]) and self.places[name].axis == 0:
            fixed = self._constant([1, *sizes[1:]])
            rows = self._row_count(name, 0)
            whole = self._make("Concat", [rows, self._slice(fixed, 1, len(sizes))], axis=0)
            node.input[3] = whole
            self.count += 1
        return self._leading(node, name)

    # What rules use.

    def _integers(self, node: NodeProto, position: int) -> list[int] | None:
        sizes = self.integers.get(node.input[position]) if len(node.input) > position else None
        return None if sizes is None else list(sizes)

    def _replace(self, node: NodeProto, position: int, values: list[int]) -> None:
        self.count += 1
        if len(node.input) > position:
            node.input[position] = self._constant(values)
            return
        for attribute in node.attribute:  # Reshape before opset 5
            if attribute.name == "shape":
                attribute.ints[:] = values

    def _constant(self, values: list[int]) -> str:
        name = f"cake_shape_{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def _make(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"cake_{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _slice(self, name: str, start: int, end: int) -> str:
        if self.opset >= 10:
            return self._make("Slice", [name, self._constant([start]), self._constant([end])])
        made = f"cake_slice_{len(self.nodes)}"
        self.nodes.append(helper.make_node("Slice", [name], [made], name=made, starts=[start], ends=[end]))
        return made

    def _row_count(self, like: str, axis: int) -> str:
        return self._slice(self._make("Shape", [like]), axis, axis + 1)

    def _repeated(self, name: str, axis: int, like: str) -> str:
        """One row of `name` for each row of `like`, whose rows lie along the same axis."""
        parts = []
        shape = self.shapes[name]
        if axis:
            parts.append(self._constant(list(shape[:axis])))
        parts.append(self._row_count(like, axis))
        if axis + 1 < len(shape):
            parts.append(self._constant(list(shape[axis + 1 :])))
        self.count += 1
        return self._make("Expand", [name, self._make("Concat", parts, axis=0)])


RULES: dict[str, Callable[[_Opener, NodeProto, str], Place | None]] = {
    "Transpose": _Opener._transpose,
    "Reshape": _Opener._reshape,
    "Flatten": _Opener._flatten,
    "Squeeze": _Opener._squeeze,
    "Unsqueeze": _Opener._unsqueeze,
    "Gather": _Opener._gather,
    "Expand": _Opener._expand,
    "Concat": _Opener._concat,
    "Resize": _Opener._resize,
    "Gemm": _Opener._leading,
    "Conv": _Opener._leading,
    "Shape": lambda opener, node, name: None,
    **dict.fromkeys(
        (f"Reduce{kind}" for kind in ("Mean", "Sum", "Max", "Min", "L2", "L1", "Prod", "LogSumExp")), _Opener._reduce
    ),
}
