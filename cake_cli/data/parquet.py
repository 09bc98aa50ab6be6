"""Parquet files in the Hugging Face layout: a column of encoded images and one of labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cake_cli.data.labels import ClassOrder, ModelClasses, check_range, order_classes, read_labels
from cake_cli.data.pictures import Picture, PictureSet, open_picture
from cake_cli.data.shards import Shard, open_table
from cake_cli.data.texts import DistinctTexts
from cake_cli.errors import DataError, did_you_mean
from cake_cli.forms import parse_json
from cake_cli.spec import InputSpec

_IMAGES = ("image", "img", "images")
_LABELS = ("label", "labels", "fine_label", "class")
_SPLITS = ("test", "validation", "val")


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
        DataError: if a file is damaged, has no images or labels, would unpack to far more than its size, or does not
            fit the model.
    """
    paths = _of_split(source, split) if source.is_dir() else [source]
    schema = open_table(paths[0]).schema_arrow
    images = _column(paths[0], schema, _IMAGES, None, "images")
    labels = _column(paths[0], schema, _LABELS, label_column, "labels")
    shards = [Shard(path, images, labels) for path in paths]
    values, order = _read_labels(shards, model, _stated_names(schema, labels), name)

    def pictures() -> Iterator[Picture]:
        row = 0
        for shard in shards:
            for data in shard.images():
                if values[row] >= 0:
                    where = f"{shard.path.name} row {row}"
                    yield Picture(where, int(values[row]), partial(_load, data), held=len(data or b""))
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


def _read_labels(
    shards: Sequence[Shard], model: ModelClasses, stated: list[str] | None, name: str
) -> tuple[NDArray[np.int64], ClassOrder]:
    """(N,), -1 where a row is left out."""
    if any(shard.has_texts for shard in shards):
        distinct = DistinctTexts(name)
        numbers = np.concatenate([shard.numbered_labels(distinct) for shard in shards])  # (N,)
        indices, order = read_labels(np.array(distinct.texts, dtype=str), model, name=name)
        return indices[numbers], order
    raw = np.concatenate([shard.labels() for shard in shards])  # (N,)
    if stated is None or raw.dtype.kind not in "iu":
        return read_labels(raw, model, name=name)
    order = order_classes(stated, model, what=f"classes of {name}")
    check_range(raw, len(stated), name)
    return np.array([order.index.get(label, -1) for label in stated])[raw], order


def _stated_names(schema: Any, column: str) -> list[str] | None:
    """Names of a ClassLabel, which Hugging Face's datasets keeps in the schema's metadata."""
    try:
        described = parse_json((schema.metadata or {})[b"huggingface"])
        return [str(label) for label in described["info"]["features"][column]["names"]]
    except (KeyError, TypeError, ValueError):
        return None


def _load(data: bytes | None) -> Image.Image:
    if data is None:
        raise ValueError("no image bytes")
    return open_picture(BytesIO(data))
