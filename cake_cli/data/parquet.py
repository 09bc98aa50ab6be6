"""Parquet files in the Hugging Face layout: a column of encoded images and one of labels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cake_cli.data.labels import ModelClasses, check_range, order_classes, read_labels
from cake_cli.data.pictures import Picture, PictureSet, open_picture
from cake_cli.data.stored import MOST_ROWS
from cake_cli.errors import DataError, EnvironmentFault, did_you_mean
from cake_cli.forms import parse_json
from cake_cli.spec import InputSpec

_IMAGES = ("image", "img", "images")
_LABELS = ("label", "labels", "fine_label", "class")
_SPLITS = ("test", "validation", "val")
_CHUNK = 64
"""Rows of encoded images in memory at a time."""


def find_parquet(root: Path) -> list[Path]:
    """The parquet files of a folder, or of its folder ``data``, sorted."""
    return sorted(root.glob("*.parquet")) or sorted((root / "data").glob("*.parquet"))


def open_parquet(
    source: Path,
    spec: InputSpec,
    model: ModelClasses,
    *,
    name: str,
    split: str | None = None,
    label_column: str | None = None,
    strict: bool = False,
) -> PictureSet:
    """A parquet file, or a folder of shards such as ``test-00000-of-00002.parquet``, as a `HeldOut`.

    Args:
        source: the file or folder.
        spec: the classifier's input.
        model: the classifier's classes.
        name: what the user called it.
        split: what the names of the shards to read begin with.
        label_column: the column of labels, where it is not called ``label``.
        strict: whether an image that cannot be read is a fault.

    Raises:
        EnvironmentFault: if pyarrow is missing.
        DataError: if a file is damaged, has no images or labels, or does not fit the model.
    """
    paths = _of_split(source, split) if source.is_dir() else [source]
    tables = [_open(path) for path in paths]
    schema = tables[0].schema_arrow
    images = _column(paths[0], schema, _IMAGES, None, "images")
    labels = _column(paths[0], schema, _LABELS, label_column, "labels")
    stated = _stated_names(schema, labels)
    raw = np.concatenate([_read(path, table, labels) for path, table in zip(paths, tables, strict=True)])
    if stated is not None and raw.dtype.kind in "iu":
        order = order_classes(stated, model, what=f"classes of {name}")
        check_range(raw, len(stated), name)
        values = np.array([order.index.get(label, -1) for label in stated])[raw]  # (N,), -1 where left out
    else:
        values, order = read_labels(raw, model, name=name)

    def pictures() -> Iterator[Picture]:
        row = 0
        for path in paths:
            for cell in _cells(path, images):
                if values[row] >= 0:
                    yield Picture(f"{path.name} row {row}", int(values[row]), partial(_load, cell))
                row += 1

    rows = int((values >= 0).sum())
    return PictureSet(name, rows, pictures, spec, class_names=order.names, notes=order.notes, strict=strict)


def _of_split(root: Path, split: str | None) -> list[Path]:
    paths = find_parquet(root)
    for prefix in (split,) if split else _SPLITS:
        chosen = [path for path in paths if path.name.startswith(prefix)]
        if chosen:
            return chosen
    if split:
        raise DataError(
            f"{root} has no parquet file of the split {split!r}", f"it has {', '.join(p.name for p in paths)}"
        )
    if all(path.name.startswith("train") for path in paths):
        raise DataError(
            f"{root} holds the training split alone, which is not held out", "--split train, if that is meant"
        )
    return paths


def _open(path: Path) -> Any:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as fault:
        raise EnvironmentFault(
            f"reading {path} needs pyarrow, which is not installed", "pip install 'cake-cli[parquet]'"
        ) from fault
    try:
        if not path.is_file():
            raise OSError("a pipe or a device")
        table = parquet.ParquetFile(path)
        if table.metadata.num_rows > MOST_ROWS:
            raise ValueError(f"it says it has {table.metadata.num_rows:,} rows")
        return table
    except (ValueError, OSError) as fault:  # pyarrow's ArrowInvalid is a ValueError
        raise DataError(
            f"{path} is not a parquet file, or damaged ({_first_line(fault)})", "download it again"
        ) from fault


def _column(path: Path, schema: Any, known: tuple[str, ...], wanted: str | None, what: str) -> str:
    names = list(schema.names)
    if wanted is not None and wanted not in names:
        raise DataError(
            f"{path} has no column {wanted!r}; it has {', '.join(names)}", did_you_mean(wanted, names) or None
        )
    found = wanted or next((name for name in known if name in names), None)
    if found is None:
        fix = "--label-column NAME" if what == "labels" else f"name the column of encoded images {known[0]!r}"
        raise DataError(f"{path} has no {what}: its columns are {', '.join(names)}", fix)
    return found


def _read(path: Path, table: Any, column: str) -> Any:
    try:
        cells = table.read(columns=[column]).column(0)
    except (ValueError, OSError) as fault:
        raise DataError(f"{path} is damaged ({_first_line(fault)})", "download it again") from fault
    if cells.null_count:
        raise DataError(f"{path} has {cells.null_count} rows without a label", "remove those rows")
    return cells.to_numpy() if str(cells.type) != "string" else np.array(cells.to_pylist(), dtype=str)


def _cells(path: Path, column: str) -> Iterator[Any]:
    """The cells of one column, read in small chunks."""
    batches = _open(path).iter_batches(_CHUNK, columns=[column])
    while True:
        try:
            batch = next(batches, None)
        except (ValueError, OSError) as fault:
            raise DataError(f"{path} is damaged ({_first_line(fault)})", "download it again") from fault
        if batch is None:
            return
        yield from batch.column(0).to_pylist()


def _stated_names(schema: Any, column: str) -> list[str] | None:
    """Names of a ClassLabel, which Hugging Face's datasets keeps in the schema's metadata."""
    try:
        described = parse_json((schema.metadata or {})[b"huggingface"])
        return [str(label) for label in described["info"]["features"][column]["names"]]
    except (KeyError, TypeError, ValueError):
        return None


def _load(cell: Any) -> Image.Image:
    data = cell["bytes"] if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise ValueError("no image bytes")
    return open_picture(BytesIO(data))


def _first_line(fault: BaseException) -> str:
    return (str(fault).splitlines() or [type(fault).__name__])[0]
