"""Reading an ONNX file without trusting it: sizes are checked before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from cake_cli.errors import ModelFileError
from cake_cli.models.onnx.arity import check_nodes
from cake_cli.models.onnx.external import load_external

LFS_MARK = b"version https://git-lfs"
LARGEST_FILE = 2 << 30

ELEMENT_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.INT8: 1,
    TensorProto.INT16: 2,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
    TensorProto.UINT8: 1,
    TensorProto.UINT16: 2,
    TensorProto.UINT32: 4,
    TensorProto.UINT64: 8,
    TensorProto.BOOL: 1,
}
"""Bytes of one element in `raw_data`, for the types that are computed with."""

PACKED_BITS: dict[int, int] = {
    **dict.fromkeys((TensorProto.INT4, TensorProto.UINT4), 4),
    **dict.fromkeys((TensorProto.INT2, TensorProto.UINT2), 2),
    **dict.fromkeys((TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2), 8),
    **dict.fromkeys((TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2FNUZ), 8),
}
"""Bits of one element in `raw_data`, for the types that weights are only stored in."""

NUMBER_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.STRING: "string_data",
}
"""Where elements lie that are not in `raw_data`; all other types use `int32_data`."""

KINDS = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}

LFS_FIX = "git lfs pull, or download the file itself"


def read_model(path: Path) -> ModelProto:
    """Reads a model with its external data; raises as `read_serialized`."""
    return read_serialized(path)[0]


def read_serialized(path: Path) -> tuple[ModelProto, bytes | None]:
    """Reads a model with its external data, and its bytes if there are none of those.

    Raises:
        ModelFileError: if the file is absent, empty, a Git LFS pointer, cut short, not ONNX, declares
            tensors larger than the bytes it has, or refers to data outside its own folder.
    """
    content = _content(path)
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, RecursionError) as fault:
        raise ModelFileError(
            f"{path.name} is damaged, cut short or not ONNX ({len(content):,} bytes: {fault})",
            "download or export the file again, and compare its size with the original's",
        ) from fault
    if not model.graph.node or not model.graph.output:
        raise ModelFileError(
            f"{path.name} ({len(content):,} bytes) holds no ONNX graph", "give a model that torch.onnx.export wrote"
        )
    _check_operator_sets(model, path)
    check_nodes(model, path)
    is_whole = all(tensor.data_location != TensorProto.EXTERNAL for tensor in every_tensor(model))
    check_tensors(model, path)
    return model, content if is_whole else None


def _check_operator_sets(model: ModelProto, path: Path) -> None:
    """Every operator needs a version; they stand at the end of the file, where a cut takes them."""
    said = {entry.domain or "ai.onnx" for entry in model.opset_import}
    said |= {function.domain or "ai.onnx" for function in model.functions}
    used = {node.domain or "ai.onnx" for node in model.graph.node}
    if not used <= said:
        raise ModelFileError(
            f"{path.name} does not say which version of {', '.join(sorted(used - said))} its operators are of: "
            "it is cut short or damaged",
            "download or export the file again, and compare its size with the original's",
        )


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelFileError(f"{path.name} is not a file", "give the .onnx file itself")
        if size > LARGEST_FILE:
            raise ModelFileError(
                f"{path.name} has {size:,} bytes, more than the 2 GiB that an ONNX file can have",
                "export it with external data",
            )
        content = path.read_bytes()
    except OSError as fault:
        raise ModelFileError(
            f"{path} cannot be read: {fault.strerror}", "check the path and its permissions"
        ) from fault
    if not content:
        raise ModelFileError(f"{path.name} is an empty file (0 bytes)", LFS_FIX)
    if content.startswith(LFS_MARK):
        fields = dict(line.split(" ", 1) for line in content.decode("utf-8", "replace").splitlines() if " " in line)
        real = fields.get("size", "")
        whole = f" for a file of {int(real):,} bytes" if real.isdigit() else ""
        raise ModelFileError(f"{path.name} is a Git LFS pointer ({len(content):,} bytes){whole}", LFS_FIX)
    return content


def check_tensors(model: ModelProto, path: Path) -> None:
    """Compares what every tensor declares with the bytes that are there, and brings in external data.

    Raises:
        ModelFileError: naming the tensor, with both sizes.
    """
    for tensor in every_tensor(model):
        if tensor.data_type not in KINDS or tensor.HasField("segment"):
            raise ModelFileError(
                f"tensor {tensor.name!r} of {path.name} is of no type that ONNX has, or a part of one",
                "the file is damaged: download or export it again",
            )
        if any(size < 0 for size in tensor.dims):
            raise ModelFileError(f"tensor {tensor.name!r} of {path.name} has a negative size", "export it again")
        count = math.prod(tensor.dims)
        size = _bytes_of(tensor.data_type, count)
        if tensor.data_location == TensorProto.EXTERNAL:
            load_external(tensor, size, path)
        elif size is not None or tensor.data_type == TensorProto.STRING:
            _check_inline(tensor, count, size or 0, path)


def _bytes_of(kind: int, count: int) -> int | None:
    """How many bytes elements of a type take; None for types that are not computed with."""
    if kind in PACKED_BITS:
        return (count * PACKED_BITS[kind] + 7) // 8
    return count * ELEMENT_BYTES[kind] if kind in ELEMENT_BYTES else None


def _check_inline(tensor: TensorProto, count: int, size: int, path: Path) -> None:
    if tensor.HasField("raw_data"):
        present, declared, unit = len(tensor.raw_data), size, "bytes"
    else:
        present = len(getattr(tensor, NUMBER_FIELDS.get(tensor.data_type, "int32_data")))
        declared, unit = size if tensor.data_type in PACKED_BITS else count, "numbers"
    if present != declared:
        raise ModelFileError(
            f"tensor {tensor.name!r} of {path.name} declares {declared:,} {unit} and has {present:,}",
            "the file is damaged or cut short: download or export it again",
        )


def every_tensor(model: ModelProto) -> Iterator[TensorProto]:
    """All constants of a model, those in subgraphs and functions too."""
    yield from _tensors_of(model.graph)
    for function in model.functions:
        yield from _tensors_in(function.node)


def _tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _tensors_in(graph.node)


def _tensors_in(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == AttributeProto.SPARSE_TENSOR:
                yield attribute.sparse_tensor.values
                yield attribute.sparse_tensor.indices
            elif attribute.type == AttributeProto.GRAPH:
                yield from _tensors_of(attribute.g)
            yield from attribute.tensors
            for graph in attribute.graphs:
                yield from _tensors_of(graph)
