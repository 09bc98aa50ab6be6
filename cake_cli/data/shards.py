"""Parquet files, one column at a time and in chunks, so that memory does not grow with what a small file unpacks to."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cake_cli.data.stored import MOST_ROWS, MOST_TIMES, MOST_UNPACKED
from cake_cli.data.texts import DistinctTexts
from cake_cli.errors import DataError, EnvironmentFault

_IMAGES = 16
_LABELS = 1 << 16
"""Rows in memory at a time as the file holds them."""

_MOST_HELD = 1 << 27
"""Bytes of images in memory at a time: a dictionary may give each row the same large one."""


class Shard:
    """A parquet file with a column of encoded images and one of labels.

    Args:
        path: of the file.
        images: the column of bytes, or of structs with a field ``bytes``.
        labels: the column of numbers or texts.

    Raises:
        EnvironmentFault: if pyarrow is missing.
        DataError: if the file is damaged, lacks a column, has one of another type, or says that it unpacks to far more
            than its size.
    """

    def __init__(self, path: Path, images: str, labels: str) -> None:
        self.path = path
        table = open_table(path)
        schema = table.schema_arrow
        for column in (images, labels):
            if column not in schema.names:
                raise DataError(
                    f"{path} has no column {column!r}, as the set's first file has; it has {', '.join(schema.names)}",
                    "give files of one set",
                )
        self._images = _leaf_of_images(path, schema, images)
        self._labels = labels
        self.has_texts = _holds_texts(path, schema, labels)
        groups = range(table.metadata.num_row_groups)  # not their columns, whose metadata may end the process
        sizes = [table.metadata.row_group(group).total_byte_size for group in groups]
        self._check_unpacked(sum(sizes), allowed=_MOST_HELD)
        self._rows_of_images = max(1, min(_IMAGES, _MOST_HELD // max(1, *sizes)))

    def labels(self) -> NDArray[Any]:
        """(N,) where they are numbers.

        Raises:
            DataError: if the file is damaged, or a row has none.
        """
        chunks = [cells.to_numpy(zero_copy_only=False) for cells in self._cells_of_labels()]
        return np.concatenate(chunks or [np.zeros(0, np.int64)])

    def numbered_labels(self, distinct: DistinctTexts) -> NDArray[np.int64]:
        """(N,), labels as numbers in `distinct`; those that are numbers in the file are texts as well.

        Raises:
            DataError: if the file is damaged, a row has none, or they are no names.
        """
        chunks = [np.zeros(0, np.int64)]
        for cells in self._cells_of_labels():
            encoded = cells if self.has_texts else cells.dictionary_encode()
            numbers = np.array([distinct.number(_text(value)) for value in encoded.dictionary.to_pylist()], np.int64)
            chunks.append(numbers[encoded.indices.to_numpy()])
        return np.concatenate(chunks)

    def images(self) -> Iterator[bytes | None]:
        """The encoded images in order, None where a row has none.

        Raises:
            DataError: if the file is damaged, or unpacks to far more than its size.
        """
        unpacked = 0
        for cells in self._chunks(open_table(self.path), self._images, self._rows_of_images):
            for cell in cells.to_pylist():
                data = cell["bytes"] if isinstance(cell, dict) else cell
                unpacked += len(data or b"")
                yield data
            self._check_unpacked(unpacked, allowed=MOST_UNPACKED)

    def _cells_of_labels(self) -> Iterator[Any]:
        table = open_table(self.path, dictionary=self._labels if self.has_texts else None)
        for cells in self._chunks(table, self._labels, _LABELS):
            if cells.null_count:
                raise DataError(f"{self.path} has rows without a label", "remove those rows")
            yield cells

    def _chunks(self, table: Any, column: str, rows: int) -> Iterator[Any]:
        """A column in chunks, of as many rows in all as the file says: labels and images must not fall out of step."""
        batches, expected, found = table.iter_batches(rows, columns=[column]), table.metadata.num_rows, 0
        while True:
            try:
                batch = next(batches, None)
                if batch is not None:
                    batch.validate(full=True)
            except _faults() as fault:
                raise DataError(f"{self.path} is damaged ({_first_line(fault)})", "download it again") from fault
            found += len(batch or ())
            if found > expected or (batch is None and found < expected):
                raise DataError(f"{self.path} is damaged ({found:,} of {expected:,} rows)", "download it again")
            if batch is None:
                return
            yield batch.column(0)

    def _check_unpacked(self, size: int, *, allowed: int) -> None:
        """Refuses what is more than `allowed` and more than `MOST_TIMES` the file: images are packed already."""
        packed = self.path.stat().st_size
        if size > max(allowed, MOST_TIMES * packed):
            raise DataError(
                f"{self.path} would unpack from {packed:,} to {size:,} bytes or more; it is not read",
                "give images as PNG or JPEG files, which do not unpack so far",
            )


def open_table(path: Path, *, dictionary: str | None = None) -> Any:
    """A ``pyarrow.parquet.ParquetFile``.

    Args:
        path: of the file.
        dictionary: a column of texts, to be read as a dictionary and numbers, however the file holds it.

    Raises:
        EnvironmentFault: if pyarrow is missing.
        DataError: if it is no parquet file, damaged, or has more rows than are read.
    """
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as fault:
        raise EnvironmentFault(
            f"reading {path} needs pyarrow, which is not installed", "pip install 'cake-cli[parquet]'"
        ) from fault
    try:
        if not path.is_file():
            raise OSError("a pipe or a device")
        table = parquet.ParquetFile(path, read_dictionary=[dictionary] if dictionary else None)
        if table.metadata.num_rows > MOST_ROWS:
            raise ValueError(f"it says it has {table.metadata.num_rows:,} rows")
        return table
    except _faults() as fault:
        raise DataError(
            f"{path} is not a parquet file, or damaged ({_first_line(fault)})", "download it again"
        ) from fault


def _leaf_of_images(path: Path, schema: Any, column: str) -> str:
    """Where the bytes lie, as parquet names it."""
    kind, leaf = schema.field(column).type, column
    if import_module("pyarrow").types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind, leaf = kind.field("bytes").type, f"{column}.bytes"
    if not _is_one_of(kind, "binary", "large_binary", "binary_view"):
        raise DataError(f"{path} column {column!r} is {kind}, not encoded images", "give PNG or JPEG files as bytes")
    return leaf


def _holds_texts(path: Path, schema: Any, column: str) -> bool:
    kind = schema.field(column).type
    if _is_one_of(kind, "string", "large_string", "string_view", "binary", "large_binary", "binary_view"):
        return True
    if _is_one_of(kind, "integer", "floating", "boolean"):
        return False
    raise DataError(
        f"{path} column {column!r} is {kind}, not class indices or names", "--label-column with the column of labels"
    )


def _is_one_of(kind: Any, *names: str) -> bool:
    """Whether a type of pyarrow's, or that of a dictionary's values, is of one of these families."""
    types = import_module("pyarrow").types
    values = kind.value_type if types.is_dictionary(kind) else kind
    return any(getattr(types, f"is_{name}")(values) for name in names)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _faults() -> tuple[type[Exception], ...]:
    """What pyarrow raises on damaged files."""
    return (ValueError, OSError, import_module("pyarrow").ArrowException)


def _first_line(fault: BaseException) -> str:
    return (str(fault).splitlines() or [type(fault).__name__])[0]
