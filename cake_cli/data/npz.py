"""NumPy archives, read member by member without numpy's loader, so that nothing is unpickled or inflated whole."""

from __future__ import annotations

import tokenize
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from cake_cli.data.stored import StoredArray, explained
from cake_cli.errors import DataError

PAIRS = (("x_test", "y_test"), ("test_images", "test_labels"), ("x", "y"), ("images", "labels"))
"""Keys of rows and labels, in the order in which they are looked for; upper and lower case are the same."""

HEADER_FAULTS = (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError, TypeError, OverflowError)
"""What numpy raises on headers that are no headers: it reads them as a literal of Python, with Python's own parser."""


def open_npz(path: Path, split: str | None = None) -> tuple[StoredArray, StoredArray]:
    """Rows and labels of an archive, checked for damage, still on disk.

    Args:
        path: of the archive.
        split: looks for the keys of this split (``x_val``, ``val_images``) instead of `PAIRS`.

    Returns:
        Rows (N, ...) and labels (N,) or (N, ...).

    Raises:
        DataError: if the archive is damaged, holds no known pair of keys, or holds values of no plain type.
    """
    with explained(str(path)), zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise DataError(f"{path} is packed in a way that NumPy does not use", "write it with np.savez_compressed")
    members = [entry.filename for entry in entries]
    keys = {name.removesuffix(".npy").lower(): name for name in members if name.endswith(".npy")}
    rows_key, labels_key = _pair(path, keys, split)
    rows, labels = (_stored(path, keys[key]) for key in (rows_key, labels_key))
    for array in (labels, rows):
        array.check_size(path.stat().st_size)
    return rows, labels


def _pair(path: Path, keys: Iterable[str], split: str | None) -> tuple[str, str]:
    pairs = PAIRS if split is None else ((f"x_{split}", f"y_{split}"), (f"{split}_images", f"{split}_labels"))
    for pair in pairs:
        if set(pair) <= set(keys):
            return pair[0], pair[1]
    known = "keys " + ", ".join(f"{x} and {y}" for x, y in pairs)
    found = ", ".join(sorted(keys)) or "nothing"
    for rows_key, labels_key in pairs:
        if rows_key in keys:
            raise DataError(f"{path} has no labels: it holds {found}", f"add the labels as {labels_key}")
    raise DataError(f"{path} holds {found}, no rows and labels that cake knows", f"name them by one of the {known}")


def _stored(path: Path, member: str) -> StoredArray:
    name = f"{path}[{member.removesuffix('.npy')}]"
    with explained(name), zipfile.ZipFile(path) as archive, archive.open(member) as stream:
        try:
            version = npy.read_magic(stream)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version[0]}.{version[1]} of the format")
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, column_major, dtype = read_header(stream)
        except HEADER_FAULTS as fault:
            raise DataError(f"{name} is not a NumPy array ({fault})", "write it with np.savez_compressed") from fault
        start = stream.tell()
    if dtype.hasobject:
        raise DataError(
            f"{name} holds pickled Python objects, whose loading would run code; it is not loaded",
            "save plain arrays: np.asarray(values, dtype=np.uint8), not dtype object",
        )
    if dtype.kind == "V" or not dtype.itemsize:
        raise DataError(
            f"{name} holds values of the type {dtype.str}, which are neither numbers nor texts",
            "save a plain array: np.asarray(values, dtype=np.float32)",
        )
    if not shape:
        raise DataError(f"{name} is a single value, not rows", "save an array of shape (N, ...)")

    def open_bytes() -> IO[bytes]:
        archive = zipfile.ZipFile(path)
        stream = archive.open(member)
        archive.close()  # the member keeps the file open for itself until it is closed
        stream.read(start)
        return stream

    return StoredArray(name, open_bytes, np.dtype(dtype), tuple(shape), column_major=column_major)
