"""A standardisation at the beginning of a graph, which tells the scale of its inputs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from cake_cli.spec import InputSpec

SOURCE = "the scaler that the file begins with"
PLAIN = frozenset({"Cast", "Identity"})


@dataclass(frozen=True)
class Scaling:
    """What makes a raw row standard: (raw - mean) / std."""

    mean: np.ndarray
    """(D,) for a vector, or () for one number for all of a row."""
    std: np.ndarray
    """Likewise."""

    @classmethod
    def of_range(cls, least: float, greatest: float) -> Scaling:
        """That of values spread evenly over a range."""
        return cls(np.array((least + greatest) / 2), np.array((greatest - least) / math.sqrt(12)))

    def raw(self, rows: np.ndarray) -> np.ndarray:
        """Standard rows (N, *row) as the file takes them."""
        scaled: np.ndarray = rows * self.std + self.mean
        return scaled.astype(np.float32)

    def metadata(self) -> dict[str, str]:
        """As the metadata that an input specification is read from."""
        spec = InputSpec(
            shape=self.mean.shape,
            mean=tuple(float(value) for value in self.mean),
            std=tuple(float(value) for value in self.std),
            range=None,
            expects="raw",
        )
        return {"cake.input": json.dumps(spec.to_json()), "cake.input_source": SOURCE}


def read_scaling(model: ModelProto, shape: tuple[int, ...]) -> Scaling | None:
    """Reads what the first operators do to each feature of a vector.

    Args:
        model: with one input; read before any weight is changed.
        shape: one row.

    Returns:
        The scaling, where a Scaler (or products and sums with a number for each feature) is all that the input
        goes through at first; None for images, and where features are turned round or not moved at all.
    """
    if len(shape) != 1:
        return None
    factor, shift = np.ones(shape), np.zeros(shape)  # what the input has become: factor x + shift
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    name, found = model.graph.input[0].name, False
    while True:
        readers = [node for node in model.graph.node if name in node.input]
        if len(readers) != 1:
            break
        (node,) = readers
        if node.op_type not in PLAIN:
            step = _affine(node, name, weights, shape)
            if step is None:
                break
            with np.errstate(all="ignore"):  # checked at the end
                factor, shift, found = factor * step[0], shift * step[0] + step[1], True
        name = node.output[0]
    usable = found and np.isfinite([factor, shift]).all() and (factor > 0).all()
    return Scaling(0.0 - shift / factor, 1 / factor) if usable else None


def _affine(
    node: NodeProto, name: str, weights: dict[str, TensorProto], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """The factor and the shift of one operator, (D,) each."""
    if (node.domain, node.op_type) == ("ai.onnx.ml", "Scaler"):
        fields = {attribute.name: np.array(attribute.floats) for attribute in node.attribute}
        offset, scale = fields.get("offset", np.zeros(1)), fields.get("scale", np.ones(1))
        fits = all(values.shape in ((1,), shape) for values in (offset, scale))
        return (np.broadcast_to(scale, shape), np.broadcast_to(-offset * scale, shape)) if fits else None
    if node.domain or node.op_type not in ("Add", "Sub", "Mul", "Div") or node.input[0] != name:
        return None
    tensor = weights.get(node.input[1])
    values = None if tensor is None else numpy_helper.to_array(tensor).astype(np.float64)
    if values is None or values.shape not in (shape, (1, *shape)):
        return None
    values = values.reshape(shape)
    one, zero = np.ones(shape), np.zeros(shape)
    if node.op_type in ("Add", "Sub"):
        return one, values if node.op_type == "Add" else -values
    return (values if node.op_type == "Mul" else one / np.where(values == 0, np.nan, values)), zero
