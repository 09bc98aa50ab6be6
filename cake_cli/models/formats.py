"""What a file is, told by its content, before anything in it is trusted."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from cake_cli.errors import ModelFileError
from cake_cli.models.archive import ARCHIVE_FAULTS, damaged_archive
from cake_cli.models.foreign import (
    HEAD,
    ONNX,
    refusal_of_archive,
    refusal_of_bytes,
    refusal_of_folder,
    refusal_of_name,
    refusal_of_unknown,
)

Format = Literal["onnx", "safetensors", "torchscript", "pt2", "checkpoint", "pickle"]
_LFS = b"version https://git-lfs"
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How checkpoints began before torch 1.6 made them archives: a pickled number that says so."""
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


STUDENT_FILE = "student.safetensors"
"""What the student of a run is called."""


@dataclass(frozen=True)
class ModelFile:
    """A file and what it was found to be."""

    path: Path
    format: Format
    size: int
    """Bytes."""
    legacy: bool = False
    """Whether a checkpoint is of the kind before torch 1.6, a row of pickles and no archive."""


def weights_file(path: Path) -> Path:
    """The file of weights that a path means: itself, or the student of a run."""
    return path / STUDENT_FILE if path.is_dir() and (path / STUDENT_FILE).is_file() else path


def sniff(path: Path) -> ModelFile:
    """Tells a model file's format by its first bytes, or by the names in its archive; reads no more.

    Raises:
        ModelFileError: if it is missing, empty, a pointer, or of no known kind.
    """
    if path.is_symlink() and not path.exists():
        raise ModelFileError(f"{path} is a link to {path.readlink()}, which is not there", "the file itself")
    if not path.exists():
        raise ModelFileError(f"there is no file {path}", _nearest(path))
    if path.is_dir():
        raise refusal_of_folder(path)
    if not path.is_file():  # a pipe would wait for ever, a device has no end
        raise ModelFileError(f"{path} is a pipe or a device, not a file", "write it to a file first")
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError as fault:
        raise ModelFileError(f"{path} cannot be read: {fault.strerror}", "check its permissions") from fault
    if size == 0:
        raise ModelFileError(f"{path} is empty (0 bytes)", "copy or download it again")
    if head.startswith(_LFS):
        raise ModelFileError(f"{path} is a Git LFS pointer of {size} bytes, not the model", "git lfs pull")
    legacy = head.startswith(_LEGACY)
    return ModelFile(path, "checkpoint" if legacy else _format(path, head, size), size, legacy)


def _format(path: Path, head: bytes, size: int) -> Format:
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "safetensors"  # first: the length that it begins with may read as "PK", or as the start of a pickle
    if head.startswith(b"PK"):
        return _archive_format(path)
    if head.startswith(_PICKLE_STARTS):
        return "pickle"
    suffix = path.suffix.lower()
    refusal = refusal_of_bytes(path, head, size) or refusal_of_name(path, head)
    if refusal is not None:
        raise refusal
    if head.startswith(ONNX) or suffix == ".onnx":
        return "onnx"
    if suffix == ".safetensors":
        return "safetensors"  # its reader says what is wrong with it
    raise refusal_of_unknown(path, head, size)


def _archive_format(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except ARCHIVE_FAULTS as fault:
        raise damaged_archive(path, fault) from fault
    tails = {name.partition("/")[2] or name for name in names} | set(names)
    if "constants.pkl" in tails and any(tail.startswith("code/") for tail in tails):
        return "torchscript"
    if "archive_format" in tails or any(tail.startswith("models/") for tail in tails):
        return "pt2"
    if "serialized_exported_program.json" in tails:
        return "pt2"
    if "data.pkl" in tails:
        return "checkpoint"
    folders = {part for name in names for part in name.replace("\\", "/").split("/")[:-1]}
    raise refusal_of_archive(path, tails | folders)


def _nearest(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path()
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    close = get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f"did you mean {folder / close[0]}?" if close else f"check the path; {folder.resolve()} holds no such file"
