"""Weights that an ONNX file keeps in other files: read only from its own folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnx import TensorProto

from cake_cli.errors import ModelFileError

LFS_MARK = b"version https://git-lfs"


def load_external(tensor: TensorProto, declared: int | None, model_path: Path) -> None:
    """Brings the bytes of a tensor into the model.

    Args:
        tensor: changed in place: it holds `raw_data` afterwards.
        declared: the bytes that its shape and type make; None for types that are not computed with.
        model_path: the model file, whose folder must hold the data.

    Raises:
        ModelFileError: if the file is missing, outside the folder, behind a symbolic link, or too short.
    """
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    path = _own_file(location, tensor, model_path)
    try:
        offset, length = int(fields.get("offset", "0")), int(fields.get("length", "-1"))
    except ValueError as fault:
        raise _damaged(tensor, model_path, "its offset or length is not a number") from fault
    size = path.stat().st_size
    length = size - offset if length < 0 else length
    if declared is None:
        raise _damaged(tensor, model_path, f"external data of type {tensor.data_type} are not read")
    if offset < 0 or length != declared or offset + length > size:
        raise _damaged(
            tensor, model_path, f"it needs {declared:,} bytes at {max(offset, 0):,}, {path.name} has {size:,} in all"
        )
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as stream:
        stream.seek(offset)
        data = stream.read(length)
    if offset == 0 and data.startswith(LFS_MARK):
        raise ModelFileError(f"{location} is a Git LFS pointer ({size:,} bytes)", "git lfs pull")
    tensor.raw_data = data
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _own_file(location: str, tensor: TensorProto, model_path: Path) -> Path:
    """The regular file that a location means, if it is in the model's folder.

    Raises:
        ModelFileError: if it is missing, or anywhere else.
    """
    folder = model_path.parent
    pure = PurePosixPath(location)
    absolute = pure.is_absolute() or PureWindowsPath(location).is_absolute() or "\\" in location
    if not location or "\0" in location or absolute or ".." in pure.parts:
        raise ModelFileError(
            f"{model_path.name} keeps tensor {tensor.name!r} outside its own folder, at {location!r}",
            "put the data beside the model and export it with a plain file name",
        )
    path = folder
    for part in pure.parts:
        path = path / part
        if path.is_symlink():
            raise ModelFileError(
                f"{location}, the external data of {model_path.name}, is a symbolic link",
                f"copy the file itself into {folder}",
            )
    if not path.exists():
        raise ModelFileError(
            f"{model_path.name} keeps its weights in {location}, which is not beside it",
            f"copy {location} into {folder}",
        )
    if not path.is_file():
        raise ModelFileError(f"{location}, the external data of {model_path.name}, is not a file", "export it again")
    return path


def _damaged(tensor: TensorProto, model_path: Path, why: str) -> ModelFileError:
    return ModelFileError(
        f"the external data of tensor {tensor.name!r} in {model_path.name} do not fit: {why}",
        "copy the model and its data file again, or export both again",
    )
