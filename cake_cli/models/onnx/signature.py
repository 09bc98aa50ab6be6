"""What goes into a graph and what comes out, and which of it is the teacher's."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

from onnx import ModelProto, TensorProto, ValueInfoProto

from cake_cli.errors import ModelFileError, NoGradient, UsageError, did_you_mean
from cake_cli.models.onnx.preparation.order import reads
from cake_cli.models.onnx.scaling import Scaling
from cake_cli.spec import MOST_VALUES, format_shape

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
BYTES = frozenset({TensorProto.UINT8, TensorProto.INT8})
LABEL_NAMES = ("label", "target", "y_true", "ground_truth", "y_:", "y:")

MOST_IN_BATCH = 2**26
"""Values of the batch that a file declares, 256 MiB of float32."""
LARGE_BATCH = 64

Dims = tuple[int | str, ...]
"""Sizes; a name stands for one that the file leaves open."""


@dataclass(frozen=True)
class Port:
    """An input or an output of a graph."""

    name: str
    kind: int
    """The ONNX element type, 0 for sequences, maps and what the file does not say."""
    dims: Dims | None

    @classmethod
    def of(cls, value: ValueInfoProto) -> Port:
        """Reads a declaration; sizes below one count as open."""
        if not value.type.HasField("tensor_type"):
            return cls(value.name, 0, None)
        tensor = value.type.tensor_type
        dims = None
        if tensor.HasField("shape"):
            dims = tuple(size.dim_value if size.dim_value > 0 else size.dim_param or "?" for size in tensor.shape.dim)
        return cls(value.name, tensor.elem_type, dims)

    @property
    def is_float(self) -> bool:
        """Whether a gradient can pass it."""
        return self.kind in FLOATS

    def __str__(self) -> str:
        kind = TensorProto.DataType.Name(self.kind).lower() if self.kind in TensorProto.DataType.values() else "?"
        kind = "float32" if kind == "float" else "no tensor" if kind == "undefined" else kind
        return f"{self.name} ({'?' if self.dims is None else format_shape(self.dims)} {kind})"


def choose_output(model: ModelProto, wanted: str | None) -> str:
    """The name of the output that holds the scores.

    Args:
        model: a sorted model.
        wanted: the output that the user chose.

    Raises:
        UsageError: if there is no output of the wanted name.
        NoGradient: if no output has a gradient.
        ModelFileError: if several could be the scores, or none.
    """
    ports = [Port.of(value) for value in model.graph.output]
    if wanted is not None:
        if wanted not in {port.name for port in ports}:
            raise UsageError(
                f"the model has no output {wanted!r}; it has {_listed(ports)}",
                did_you_mean(wanted, [port.name for port in ports]) or f"--output {ports[0].name}",
            )
        return wanted
    floats = [port for port in ports if port.is_float or (port.kind == 0 and port.dims is None)]
    if not floats:
        raise NoGradient(
            f"the model only gives labels or integers ({_listed(ports)}): no gradient exists",
            "export the model so that it returns its scores, before the ArgMax",
        )
    if len(floats) == 1:
        return floats[0].name
    scores = [port for port in floats if port.dims is None or _could_be_scores(port.dims)]
    if not scores:
        raise ModelFileError(
            f"no output is (batch, classes): {_listed(floats)}; no classifier "
            "(a detector, a segmentation or a decoder has such outputs)",
            "give a classifier, which returns one row of scores for each input",
        )
    if any(port.dims is not None and len(port.dims) > 1 for port in scores):
        # one number a row is a state, a value or a label beside scores
        scores = [port for port in scores if port.dims is None or len(port.dims) > 1]
    if len(scores) > 1:
        scores = [port for port in scores if _rests_on(model, port.name, {other.name for other in scores})] or scores
    if len(scores) > 1:
        _refuse_several_inputs(model, [port.name for port in scores])
        raise ModelFileError(
            f"the model has several outputs that could be the scores: {_listed(scores)}",
            f"--output {shlex.quote(scores[0].name)}",
        )
    return scores[0].name


def _refuse_several_inputs(model: ModelProto, names: list[str]) -> None:
    """Refuses a model of several inputs, where each of the outputs needs more than one of them.

    Raises:
        ModelFileError: naming the inputs.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    ports = [Port.of(value) for value in model.graph.input if value.name not in weights]
    if len(ports) > 1 and all(len(_needs(model, name) & {port.name for port in ports}) > 1 for name in names):
        raise _several_inputs(ports)


def _several_inputs(ports: list[Port]) -> ModelFileError:
    return ModelFileError(
        f"the model takes {len(ports)} inputs, a teacher takes one: {_listed(ports)}",
        "export it with one input, the others as constants inside",
    )


def _needs(model: ModelProto, name: str) -> set[str]:
    """Every value that a value is computed from."""
    needed = {name}
    for node in reversed(list(model.graph.node)):
        if needed.intersection(node.output):
            needed |= reads(node)
    return needed


def _could_be_scores(dims: Dims) -> bool:
    return sum(1 for size in dims[1:] if size != 1) <= 1 and len(dims) > 0


def _rests_on(model: ModelProto, name: str, others: set[str]) -> bool:
    """Whether an output is computed from all the others: features, or scores before the softmax."""
    return others <= _needs(model, name)


def choose_input(model: ModelProto) -> Port:
    """The one input that the scores depend on.

    Args:
        model: cut down to the chosen output.

    Raises:
        ModelFileError: if there is none, or several, or it takes no numbers with a gradient.
    """
    ports = [Port.of(value) for value in model.graph.input]
    output = Port.of(model.graph.output[0])
    if not ports:
        raise ModelFileError(
            f"the output {output.name!r} of the model does not depend on any input", "--output with the name of another"
        )
    if len(ports) > 1:
        labels = [port for port in ports if any(mark in port.name.lower() for mark in LABEL_NAMES)]
        if labels or output.dims == ():
            named = labels[0].name if labels else ports[-1].name
            raise ModelFileError(
                f"this is a training graph: labels ({named!r}) are among its inputs {_listed(ports)} "
                f"and it returns {output}",
                "export the inference model, which takes one input and returns scores",
            )
        raise _several_inputs(ports)
    port = ports[0]
    if not port.is_float and port.kind not in BYTES:
        raise ModelFileError(
            f"the input {port} takes no floating-point numbers: there is no gradient with respect to it",
            "export a model whose input is float32",
        )
    return port


def _listed(ports: list[Port]) -> str:
    return ", ".join(str(port) for port in ports)


@dataclass(frozen=True)
class Rows:
    """How a batch of rows lies in the input."""

    shape: tuple[int, ...]
    """One row, without the batch axis."""
    has_batch: bool
    declared: int | None
    """The batch size that the file declares; None where it leaves it open."""
    scaling: Scaling | None = None
    """The scale of the input, where the graph begins with a standardisation."""

    @property
    def is_large(self) -> bool:
        """Whether the file declares so large a batch that running it takes long: it is run once, as it is."""
        return (self.declared or 1) > LARGE_BATCH


def read_rows(port: Port, output: Port, given: tuple[int, ...] | None) -> Rows:
    """The shape of one row: what the file states, and what the user adds.

    Args:
        port: the input.
        output: the chosen output.
        given: the user's `--input-shape`, without the batch axis.

    Raises:
        ModelFileError: if the file leaves sizes open and the user gave none.
        UsageError: if the user's sizes contradict the file.
    """
    dims = port.dims
    if dims is None:
        if given is None:
            raise ModelFileError(
                f"the file does not state the shape of its input {port.name!r}",
                "--input-shape 3,224,224, or as it was trained: C,H,W for images, D for vectors",
            )
        return _bounded(Rows(given, True, None))
    has_batch = _has_batch_axis(dims, output.dims)
    row = dims[1:] if has_batch else dims
    if given is None:
        if any(isinstance(size, str) for size in row):
            example = ",".join(
                str(size) if isinstance(size, int) else "3" if index == 0 and len(row) == 3 else "32"
                for index, size in enumerate(row)
            )
            raise ModelFileError(
                f"the file leaves sizes of its input open: {port.name} is {format_shape(dims)}",
                f"--input-shape {example} (the size of one row)",
            )
        shape = tuple(size for size in row if isinstance(size, int))
    else:
        fits = len(given) == len(row) and all(
            isinstance(size, str) or size == wanted for size, wanted in zip(row, given, strict=True)
        )
        if not fits:
            raise UsageError(
                f"--input-shape {','.join(map(str, given))} contradicts the file: a row of {port.name} is "
                f"{format_shape(row)}",
                "leave --input-shape out"
                if all(isinstance(size, int) for size in row)
                else f"--input-shape {','.join('32' if isinstance(size, str) else str(size) for size in row)}",
            )
        shape = given
    first = dims[0] if dims else None
    return _bounded(Rows(shape, has_batch, first if has_batch and isinstance(first, int) else None))


def _bounded(rows: Rows) -> Rows:
    """The rows, if they are of a size that anything could be computed with.

    Raises:
        ModelFileError: if the file declares more than `MOST_VALUES` in a row, or `MOST_IN_BATCH` in its batch.
    """
    values = math.prod(rows.shape)
    if values > MOST_VALUES or values * (rows.declared or 1) > MOST_IN_BATCH:
        raise ModelFileError(
            f"the file declares an input of {format_shape((rows.declared or 1, *rows.shape))}: "
            f"more than {MOST_VALUES:,} values in a row, or {MOST_IN_BATCH:,} in a batch, are not computed with",
            "export it again with a symbolic batch, and check the shape of a row",
        )
    return rows


def _has_batch_axis(dims: Dims, output: Dims | None) -> bool:
    """Whether the first axis of the input counts rows, judged by the first axis of the output."""
    if len(dims) < 2:
        return not dims or isinstance(dims[0], str)
    if output is None or not isinstance(dims[0], int):
        return True
    if not output:
        return True  # refused later, as not (batch, classes)
    return not (isinstance(output[0], int) and output[0] != dims[0])
