"""An array that lies in a file, maybe compressed, read in slices of rows."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cake_cli.errors import DataError
from cake_cli.spec import format_shape

_CHUNK = 1 << 20
"""Bytes read at a time when a stream is only measured."""

MOST_ROWS = 1 << 27
"""Rows of a held-out set, whose labels are kept in memory: a gigabyte of them."""

MOST_UNPACKED = 1 << 30
MOST_TIMES = 100
"""A packed array may unpack to a gigabyte whatever its size, and to a hundred times its size."""

MOST_IN_ROW = 1 << 26
"""Values of a row as it is stored, 256 MiB as float32."""

_WHOLE_LIMIT = 1 << 31
"""Bytes; an array in column-major order cannot be read in slices, and is refused above this size."""

Array = NDArray[Any]


class StoredArray:
    """An array of known dtype and shape behind a stream of bytes; nothing is read until asked.

    Args:
        name: what messages call it.
        open_bytes: opens the stream at the array's first byte.
        dtype: of the values as stored, of any byte order.
        shape: (N, ...).
        column_major: whether the first axis runs fastest.

    Raises:
        DataError: if it has more than `MOST_ROWS` rows, or none or more than `MOST_IN_ROW` values in one.
    """

    def __init__(
        self,
        name: str,
        open_bytes: Callable[[], IO[bytes]],
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        *,
        column_major: bool = False,
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self._open_bytes = open_bytes
        self._column_major = column_major and len(shape) > 1
        if shape[0] < 0 or min(shape[1:], default=1) < 1:
            raise DataError(
                f"{name} says it has the shape {format_shape(shape)}, whose rows hold nothing",
                "give rows of at least one value",
            )
        if shape[0] > MOST_ROWS or math.prod(shape[1:]) > MOST_IN_ROW:
            raise DataError(
                f"{name} says it has {shape[0]:,} rows of {math.prod(shape[1:]):,} values; "
                f"at most {MOST_ROWS:,} rows of {MOST_IN_ROW:,} are read",
                "the file is malformed: copy or write it again; or give a part of it",
            )

    def check_size(self, packed: int) -> None:
        """Reads the stream through once, keeping nothing, so that damage shows before any work begins.

        Args:
            packed: bytes of the file that it lies in.

        Raises:
            DataError: if the stream is damaged, holds fewer or more bytes than dtype and shape say, or would unpack to
                far more than its file.
        """
        expected = math.prod(self.shape) * self.dtype.itemsize
        if expected > max(MOST_UNPACKED, MOST_TIMES * packed):
            raise DataError(
                f"{self.name} would unpack from {packed:,} to {expected:,} bytes; it is not read",
                f"write it without compression, if it really holds the same value more than {MOST_TIMES} times over",
            )
        found = 0
        with explained(self.name), self._open_bytes() as stream:
            while found <= expected and (chunk := stream.read(_CHUNK)):
                found += len(chunk)
        if found != expected:
            more = " or more" if found > expected else ""
            raise DataError(
                f"{self.name} says it holds {expected:,} bytes of values but has {found:,}{more}",
                "the file is cut short or malformed: copy or write it again",
            )
        if self._column_major and expected > _WHOLE_LIMIT:
            raise DataError(
                f"{self.name} is in column-major order, which cannot be read in slices",
                "save np.ascontiguousarray(array) instead",
            )

    def slices(self, rows: int) -> Iterator[Array]:
        """The rows in order, at most `rows` at a time, in the machine's byte order.

        Raises:
            DataError: if the stream ends early or is damaged.
        """
        if self._column_major:
            whole = self.whole()
            for start in range(0, len(whole), rows):
                yield whole[start : start + rows]
            return
        native = self.dtype.newbyteorder("=")
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        with explained(self.name), self._open_bytes() as stream:
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                values = np.frombuffer(_exactly(stream, count * row_bytes, self.name), self.dtype)
                yield values.reshape(count, *self.shape[1:]).astype(native)

    def whole(self) -> Array:
        """All of it; for labels.

        Raises:
            DataError: if the stream ends early or is damaged.
        """
        order = "F" if self._column_major else "C"
        with explained(self.name), self._open_bytes() as stream:
            data = _exactly(stream, math.prod(self.shape) * self.dtype.itemsize, self.name)
        values = np.frombuffer(data, self.dtype).reshape(self.shape, order=order)  # type: ignore[call-overload]
        return np.asarray(values.astype(self.dtype.newbyteorder("=")))


def _exactly(stream: IO[bytes], count: int, name: str) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise DataError(f"{name} ends early", "the file is cut short: copy or write it again")
    return data


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns what reading a damaged archive raises into a `DataError`."""
    try:
        yield
    except EOFError as fault:
        raise DataError(f"{name} ends early: its compressed data are cut short", "copy or download it again") from fault
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, struct.error, UnicodeDecodeError) as fault:
        raise DataError(f"{name} is damaged ({fault})", "copy or write it again") from fault
    except (NotImplementedError, RuntimeError) as fault:  # zipfile: unknown compression, a password
        raise DataError(f"{name} cannot be decompressed ({fault})", "write it with np.savez_compressed") from fault
    except OSError as fault:
        raise DataError(f"{name} cannot be read ({fault.strerror or fault})", None) from fault
