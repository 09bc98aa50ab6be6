"""Seeded damage behind right lengths and checksums: headers, archives, arrays, pictures, protobuf fields."""

from __future__ import annotations

import gzip
import io
import json
import struct
import warnings
import zipfile
import zlib
from random import Random
from typing import Any

from tests.hostile.mutate import NUMBERS, TEXTS, any_bytes, as_json, as_lines, change_tree


def as_safetensors(content: bytes, source: Random) -> bytes:
    """The header, with a length that fits it; or any bytes."""
    if source.random() < 0.25:
        return any_bytes(content, source)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = header.get("__metadata__", {})
    if text and source.random() < 0.4:  # texts that hold JSON of their own
        key = source.choice(sorted(text))
        try:
            text[key] = json.dumps(change_tree(json.loads(text[key]), source))
        except ValueError:
            text[key] = source.choice(TEXTS)
    else:
        header = change_tree(header, source)
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + content[8 + length :]


def as_archive(content: bytes, source: Random) -> bytes:
    """A member changed behind a right checksum, renamed, doubled or left out; or any bytes."""
    if source.random() < 0.25:
        return any_bytes(content, source)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    place = source.randrange(len(members))
    name, held = members[place]
    kind = source.randrange(8)
    if kind == 0:
        members[place] = (source.choice(TEXTS) or "empty", held)
    elif kind == 1:
        members.append((name, held) if source.random() < 0.5 else (f"../{name}", held))
    elif kind == 2:
        del members[place]
    else:
        members[place] = (name, _member(name, held, source))
    stream = io.BytesIO()
    packing = source.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", packing) as archive:
        warnings.simplefilter("ignore")  # two members of one name
        for each, inner in members:
            archive.writestr(zipfile.ZipInfo(each.encode(errors="replace").decode()), inner)
    return stream.getvalue()


def _member(name: str, held: bytes, source: Random) -> bytes:
    if name.endswith(".json") and source.random() < 0.8:
        try:
            return as_json(held, source)
        except ValueError:
            pass
    if name.endswith(".npy") and source.random() < 0.6:
        return as_npy(held, source)
    if name.endswith((".py", ".txt")) and source.random() < 0.6:
        return as_lines(held, source)
    return any_bytes(held, source)


def as_npy(held: bytes, source: Random) -> bytes:
    """The header of an array: another type, shape or order."""
    types = (
        "'|u1'",
        "'<f8'",
        "'|O'",
        "'<U4'",
        "'>i2'",
        "'<c16'",
        "'<M8[ns]'",
        "[('a', '<i4')]",
        "'|V9'",
        "'<f2'",
        "'|S3'",
        "'<f16'",
    )
    shapes = (
        "(12, 4, 4)",
        "(2147483648,)",
        "(12,)",
        "()",
        "(0, 4, 4)",
        "(-1, 4, 4)",
        "(12, 16)",
        "(1, 2, 3, 4, 5)",
        "(9223372036854775807, 9)",
    )
    order, kind, shape = source.choice(("False", "True", "7")), source.choice(types), source.choice(shapes)
    header = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}"
    if source.random() < 0.1:
        header = source.choice(("(" * 3000, "{'a': __import__('os')}", "0" * 20000, "{}", "[1"))
    length = int.from_bytes(held[8:10], "little")
    written = header.encode() + b"\n"
    return held[:8] + struct.pack("<H", len(written)) + written + held[10 + length :]


def as_picture(content: bytes, source: Random) -> bytes:
    """The sizes of a PNG, behind a right checksum; or any bytes."""
    if not content.startswith(b"\x89PNG") or source.random() < 0.5:
        return any_bytes(content, source)
    sides = [source.choice((0, 1, 4, 5, 1000, 20_000, 2**31 - 1)) for _ in range(2)]
    head = b"IHDR" + struct.pack(">II", *sides) + bytes(source.choice((content[24 + i], 0, 255)) for i in range(5))
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


def as_gzip(content: bytes, source: Random) -> bytes:
    """What is packed, or the packing."""
    if source.random() < 0.3:
        return any_bytes(content, source)
    return gzip.compress(any_bytes(gzip.decompress(content), source))


def as_onnx(content: bytes, source: Random) -> bytes:
    """Fields of the protobuf message: numbers, names, types, order; or any bytes."""
    from onnx import ModelProto

    if source.random() < 0.2:
        return any_bytes(content, source)
    model = ModelProto()
    model.ParseFromString(content)
    for _ in range(source.randint(1, 3)):
        change_message(model, source)
    return model.SerializeToString()


def change_message(root: Any, source: Random) -> None:
    """Changes one field anywhere below a protobuf message."""
    messages = [root]
    for message in messages:
        for field, value in message.ListFields():
            if field.message_type is not None:
                messages.extend(value if hasattr(value, "add") else [value])
    message = source.choice(messages)
    fields = [field for field, _ in message.ListFields()] if source.random() < 0.8 else list(message.DESCRIPTOR.fields)
    if not fields:
        return
    field = source.choice(fields)
    value = getattr(message, field.name)
    many = hasattr(value, "__len__") and not isinstance(value, (str, bytes))
    kind = source.randrange(4)
    try:
        if many and len(value) and kind == 0:
            del value[source.randrange(len(value))]
        elif many and len(value) and kind == 1:
            value.extend([value[source.randrange(len(value))]] * source.choice((1, 1, 30)))
        elif field.message_type is not None:
            message.ClearField(field.name) if kind == 0 else (value.add() if many else value.SetInParent())
        elif many:
            value[source.randrange(len(value)) :] = [_scalar(field, source)]
        else:
            setattr(message, field.name, _scalar(field, source))
    except (TypeError, ValueError, IndexError, OverflowError):
        message.ClearField(field.name)


_OPERATORS = (
    *("Relu", "Loop", "Scan", "If", "Concat", "Expand", "Tile", "Reshape", "ConstantOfShape", "Range", "Pad"),
    *("Resize", "Gather", "Conv", "ConvTranspose", "MaxPool", "Einsum", "Softmax", "Identity", "Cast", "LSTM"),
    *("Upsample", "OneHot", "SequenceAt", "CumSum", "Unsqueeze", "Split", "Slice", "RandomNormal", "EyeLike"),
    *("BatchNormalization"),
)


def _scalar(field: Any, source: Random) -> Any:
    kinds = field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_UINT32, field.CPPTYPE_UINT64, field.CPPTYPE_ENUM
    if field.cpp_type in kinds:
        return source.choice((*range(18), *NUMBERS))
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return source.choice((0.0, -1.0, float("nan"), float("inf"), 1e38, 1e-38))
    if field.cpp_type == field.CPPTYPE_BOOL:
        return source.random() < 0.5
    text = source.choice((*_OPERATORS, *("x", "w", "conv", "logits", "hidden")) if source.random() < 0.6 else TEXTS)
    text = text.encode(errors="replace").decode()
    return text.encode() if field.type == field.TYPE_BYTES else text
