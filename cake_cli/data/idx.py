"""IDX files, the format of MNIST (http://yann.lecun.com/exdb/mnist), plain or gzipped."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from cake_cli.data.stored import StoredArray, explained
from cake_cli.errors import DataError

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"


def is_idx(path: Path) -> bool:
    """Whether a file begins as an IDX file does, inside gzip or not."""
    try:
        with _open(path) as stream:
            head = stream.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] in _DTYPES and head[3] > 0


def open_idx(path: Path) -> tuple[StoredArray, StoredArray]:
    """Rows of an IDX file and the labels that lie beside it under the same name.

    Args:
        path: of the images, such as ``t10k-images-idx3-ubyte.gz``.

    Returns:
        Rows (N, ...) and labels (N,), checked for damage, still on disk.

    Raises:
        DataError: if a file is malformed or cut short, or no labels lie beside the images.
    """
    rows = _stored(path)
    if len(rows.shape) == 1:
        raise DataError(f"{path} holds labels, not images", "give the file of the images; its labels are found by name")
    candidates = list(_labels_beside(path))
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        wanted = candidates[0].name if candidates else path.name.replace(".", "-labels.", 1)
        raise DataError(
            f"{path} has no labels beside it", f"put them there as {wanted} (or name the images *-images-*)"
        )
    labels = _stored(found)
    for array, file in ((labels, found), (rows, path)):
        array.check_size(file.stat().st_size)
    return rows, labels


def find_idx(folder: Path, split: str | None = None) -> Path | None:
    """The file of images of a folder of IDX files: of `split`, else of the test split, else the only one; or None.

    Raises:
        DataError: if only the training split is there, and not asked for.
    """
    images = sorted(path for path in folder.iterdir() if "images" in path.name and path.is_file() and is_idx(path))
    for prefix in (split,) if split else ("t10k", "test", "val"):
        for path in images:
            if path.name.startswith(prefix) or (prefix == "test" and path.name.startswith("t10k")):
                return path
    if split is None and images and all(path.name.startswith("train") for path in images):
        raise DataError(
            f"{folder} holds the training split alone, which is not held out", "--split train, if that is meant"
        )
    return images[0] if len(images) == 1 and split is None else None


def _labels_beside(path: Path) -> Iterator[Path]:
    plain = path.name.removesuffix(".gz")
    if "images" not in plain:
        return
    named = plain.replace("images", "labels")
    for dimensions in ("idx3", "idx4", "idx2"):
        named = named.replace(dimensions, "idx1")
    suffixes = (".gz", "") if path.name.endswith(".gz") else ("", ".gz")
    yield from (path.with_name(named + suffix) for suffix in suffixes)


def _stored(path: Path) -> StoredArray:
    name = str(path)
    with explained(name), _open(path) as stream:
        head = stream.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _DTYPES or head[3] == 0:
            raise DataError(f"{name} is not an IDX file: it begins with {head.hex(' ')}", "give the file as published")
        sizes = stream.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise DataError(f"{name} ends inside its header", "the file is cut short: copy or download it again")
    shape = struct.unpack(f">{head[3]}I", sizes)
    start = 4 + len(sizes)

    def open_bytes() -> IO[bytes]:
        stream = _open(path)
        stream.read(start)
        return stream

    return StoredArray(name, open_bytes, np.dtype(_DTYPES[head[2]]), shape)


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as raw:
        packed = raw.read(2) == _GZIP
    stream: IO[bytes] = gzip.open(path) if packed else path.open("rb")  # type: ignore[assignment]  # noqa: SIM115 - the caller closes it
    return stream
