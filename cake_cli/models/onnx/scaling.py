"""A standardisation at the beginning of a graph, which tells the scale of its inputs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from cake_cli.spec import InputSpec

SOURCE = "the scaler that the file begins with"
PICTURES = "the normalisation that the file begins with"
BYTES = "the file takes bytes"
PLAIN = frozenset({"Cast", "Identity"})
SAME = 1e-6
"""A shift or a spread within this, relative to the range of values, is none."""


@dataclass(frozen=True)
class Scaling:
    """What makes a raw row standard: (raw - mean) / std."""

    mean: np.ndarray
    """(D,) for a vector, one number a channel for an image as (C, 1, 1) or (1, 1, C), or () for one for all."""
    std: np.ndarray
    """Likewise."""
    range: tuple[float, float] | None = None
    """The least and the greatest raw value, where that is known."""
    source: str = SOURCE

    @classmethod
    def of_range(cls, least: float, greatest: float, source: str = SOURCE) -> Scaling:
        """That of values spread evenly over a range."""
        middle, spread = (least + greatest) / 2, (greatest - least) / math.sqrt(12)
        return cls(np.array(middle), np.array(spread), (least, greatest), source)

    def raw(self, rows: np.ndarray) -> np.ndarray:
        """Standard rows (N, *row) as the file takes them."""
        scaled: np.ndarray = rows * self.std + self.mean
        return scaled.astype(np.float32)

    def metadata(self, shape: tuple[int, ...]) -> dict[str, str]:
        """As the metadata that an input specification is read from; an image is as large as one pixel there.

        Args:
            shape: one row, in the file's own layout.
        """
        spec = InputSpec(
            shape=shape if len(shape) == 1 else (self.mean.size, 1, 1),
            mean=tuple(float(value) for value in self.mean.reshape(-1)),
            std=tuple(float(value) for value in self.std.reshape(-1)),
            range=self.range,
            expects="raw",
        )
        return {"cake.input": json.dumps(spec.to_json()), "cake.input_source": self.source}


def read_scaling(model: ModelProto, shape: tuple[int, ...]) -> Scaling | None:
    """Reads what the first operators do to each feature of a vector, or to each channel of an image.

    Args:
        model: with one input; read before any weight is changed.
        shape: one row, in the file's own layout.

    Returns:
        The scaling, where a Scaler (or products and sums with a number for each feature or channel, or a batch
        normalisation) is all that the input goes through at first; None where features are turned round or not
        moved at all, and for images where it does not read as a normalisation of pixels.
    """
    if len(shape) not in (1, 3):
        return _of_bytes(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type != TensorProto.STRING}
    weights |= _constants(model)
    path = _Path(np.ones((1,) * (len(shape) + 1)), np.zeros((1,) * (len(shape) + 1)), (1, *shape))
    name, found = model.graph.input[0].name, False
    while True:
        readers = [node for node in model.graph.node if name in node.input]
        if len(readers) != 1:
            break
        (node,) = readers
        if node.op_type not in PLAIN:
            step = path.after(node, name, weights)
            if step is None:
                break
            path, found = step, found or node.op_type != "Transpose"
        name = node.output[0]
    with np.errstate(all="ignore"):
        usable = found and np.isfinite(path.factor).all() and np.isfinite(path.shift).all() and (path.factor > 0).all()
    if not usable:
        return _of_bytes(model)
    mean, std = path.standard()
    if len(shape) == 1:
        return Scaling(np.broadcast_to(mean[0], shape), np.broadcast_to(std[0], shape))
    return _of_pixels(mean[0], std[0]) or _of_bytes(model)


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    """The tensors of Constant nodes, by the name of their value."""
    nodes = [node for node in model.graph.node if node.op_type == "Constant" and not node.domain]
    found = {node.output[0]: a.t for node in nodes for a in node.attribute if a.name == "value"}
    return {name: tensor for name, tensor in found.items() if tensor.data_type != TensorProto.STRING}


def _of_pixels(mean: np.ndarray, std: np.ndarray) -> Scaling | None:
    """A normalisation of images with values of 0 to 255 or of 0 to 1; None where it is neither."""
    most = 255.0 if max(float(abs(mean).max()), float(std.max())) > 2 else 1.0
    if mean.size > 1 and np.ptp(mean) < SAME * most and np.ptp(std) < SAME * most:
        mean, std = mean.reshape(-1)[:1].reshape(()), std.reshape(-1)[:1].reshape(())
    if float(mean.min()) < -SAME * most or float(mean.max()) > most or float(std.max()) > 1.1 * most:
        return None
    if mean.size != max(mean.shape, default=1):
        return None
    if abs(mean).max() < SAME * most:  # only divided: the values themselves have a middle and a spread
        return Scaling.of_range(0.0, most, PICTURES) if most > 1 else None
    spread = np.where(std == 1, most / math.sqrt(12), std) if most > 1 else std  # only a mean was taken off
    mean, spread = (values.reshape(()) if values.size == 1 else values for values in (mean, spread))
    return Scaling(mean, np.broadcast_to(spread, mean.shape), (0.0, most), PICTURES)


def _of_bytes(model: ModelProto) -> Scaling | None:
    kind = model.graph.input[0].type.tensor_type.elem_type
    return Scaling.of_range(0.0, 255.0, BYTES) if kind == TensorProto.UINT8 else None


@dataclass(frozen=True)
class _Path:
    """What the input has become: factor x + shift, in the order of axes that it has by now."""

    factor: np.ndarray
    """(1, ...) with as many axes as the batch; sizes of one where all is alike."""
    shift: np.ndarray
    shape: tuple[int, ...]
    """Of a batch of one."""
    order: tuple[int, ...] | None = None
    """The axis of the input that each axis was; None as long as none was moved."""

    def standard(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation that make the input standard, in its own order of axes, (1, ...)."""
        mean, std = -self.shift / self.factor, 1 / self.factor + 0 * self.shift  # both as large as the larger
        if self.order is None:
            return mean, std
        back = np.argsort(self.order)
        return np.transpose(mean, back), np.transpose(std, back)

    def after(self, node: NodeProto, name: str, weights: dict[str, TensorProto]) -> _Path | None:
        """The same behind another operator; None where that does more than scale and shift each place."""
        if (node.domain, node.op_type) == ("", "Transpose"):
            order = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), ())
            if len(order) != len(self.shape) or order[0] != 0:
                return None
            before = self.order or tuple(range(len(self.shape)))
            return _Path(
                np.transpose(self.factor, order),
                np.transpose(self.shift, order),
                tuple(self.shape[axis] for axis in order),
                tuple(before[axis] for axis in order),
            )
        with np.errstate(all="ignore"):  # checked at the end
            step = self._affine(node, name, weights)
            if step is None:
                return None
            return replace(self, factor=self.factor * step[0], shift=self.shift * step[0] + step[1])

    def _affine(
        self, node: NodeProto, name: str, weights: dict[str, TensorProto]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The factor and the shift of one operator, (1, ...) each."""
        if (node.domain, node.op_type) == ("ai.onnx.ml", "Scaler"):
            fields = {attribute.name: np.array(attribute.floats) for attribute in node.attribute}
            offset, scale = (self._fitted(fields.get(key, default)) for key, default in
                             (("offset", np.zeros(1)), ("scale", np.ones(1))))  # fmt: skip
            return None if offset is None or scale is None else (scale, -offset * scale)
        if (node.domain, node.op_type) == ("", "BatchNormalization") and node.input[0] == name:
            return self._normalised(node, weights)
        if node.domain or node.op_type not in ("Add", "Sub", "Mul", "Div"):
            return None
        first = node.input[0] == name
        tensor = weights.get(node.input[1] if first else node.input[0])
        values = None if tensor is None else self._fitted(numpy_helper.to_array(tensor).astype(np.float64))
        if values is None or not (first or node.op_type in ("Add", "Mul")):
            return None
        one, zero = np.ones((1,) * len(self.shape)), np.zeros((1,) * len(self.shape))
        steps = {"Add": (one, values), "Sub": (one, -values), "Mul": (values, zero)}
        return steps.get(node.op_type, (one / np.where(values == 0, np.nan, values), zero))

    def _normalised(self, node: NodeProto, weights: dict[str, TensorProto]) -> tuple[np.ndarray, np.ndarray] | None:
        """By the running mean and variance, without the scale and bias that were learnt behind them."""
        mean, variance = (weights.get(name) for name in node.input[3:5])
        if mean is None or variance is None or len(node.output) > 1:
            return None
        if not list(mean.dims) == list(variance.dims) == [self.shape[1]]:
            return None
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        axes = (1, -1, *(1,) * (len(self.shape) - 2))
        middle = numpy_helper.to_array(mean).astype(np.float64).reshape(axes)
        spread = np.sqrt(numpy_helper.to_array(variance).astype(np.float64) + epsilon).reshape(axes)
        return 1 / spread, -middle / spread

    def _fitted(self, values: np.ndarray) -> np.ndarray | None:
        """Constants with a value for each place along one axis, or one for all, as (1, ...); None for others."""
        if values.size == 1:
            return values.reshape((1,) * len(self.shape))
        if values.ndim > len(self.shape):
            return None
        values = values.reshape((1,) * (len(self.shape) - values.ndim) + values.shape)
        fits = all(size in (1, whole) for size, whole in zip(values.shape, self.shape, strict=True))
        return values if fits and values.size == max(values.shape) else None
