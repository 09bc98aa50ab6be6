"""From what the user typed after `--data` to a held-out set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cake_cli.data.arrays import ArraySet
from cake_cli.data.folder import find_split, open_folder
from cake_cli.data.held_out import HeldOut
from cake_cli.data.idx import find_idx, is_idx, open_idx
from cake_cli.data.labels import ModelClasses, read_labels
from cake_cli.data.named import TORCHVISION, canonical, open_named
from cake_cli.data.npz import open_npz
from cake_cli.data.parquet import find_parquet, open_parquet
from cake_cli.data.stored import StoredArray
from cake_cli.data.table import TableSet
from cake_cli.errors import DataError, UsageError, did_you_mean
from cake_cli.spec import InputSpec

KINDS = "a folder of class folders, .npz, IDX (also .gz), .parquet, .csv, or a torchvision name such as cifar10"


def open_heldout(
    source: str,
    spec: InputSpec,
    classes: int,
    *,
    split: str | None = None,
    label_column: str | None = None,
    data_root: Path | None = None,
    download: bool = False,
    class_names: tuple[str, ...] | None = None,
    class_map: Mapping[str, str] | None = None,
    strict: bool = False,
) -> HeldOut:
    """Opens a held-out set and checks that it fits the classifier; its rows stay on disk.

    Args:
        source: a path, or the name of a torchvision set; a path that exists comes first.
        spec: the classifier's input: its shape, mean, std and range decide all preprocessing.
        classes: K.
        split: the folder, keys, shards or split to read, where the source has several.
        label_column: of a table or parquet file; the last column of a table where None.
        data_root: where torchvision sets lie.
        download: whether torchvision may fetch what is missing.
        class_names: the model's K names, with which names in the data are matched.
        class_map: from the data's names of classes (or labels as text) to the model's names or indices.
        strict: whether an image that cannot be read is a fault, not a note.

    Raises:
        DataError: if the source is missing, of no known kind, damaged, unlabelled, or does not fit.
        UsageError: if an option does not apply to this kind of source, or one is missing.
        EnvironmentFault: if reading it needs a package that is missing.
    """
    model = ModelClasses(classes, class_names, class_map or {})
    path = Path(source).expanduser()
    if not path.exists():
        name = canonical(source)
        if name is None:
            raise _missing(path, source)
        _refuse(source, "a torchvision set", label_column=label_column)
        return open_named(name, spec, model, data_root=data_root, download=download, split=split, strict=strict)
    if path.is_dir():
        return _open_directory(path, source, spec, model, split=split, label_column=label_column, strict=strict)
    return _open_file(path, source, spec, model, split=split, label_column=label_column, strict=strict)


def what_is_read(source: str, split: str | None) -> tuple[str, str | None]:
    """The rows that `open_heldout` reads of a source, by whatever name: equal where they are the same.

    Raises:
        DataError: as `open_heldout`, if a split is not there, or only that for training and none is asked for.
    """
    path = Path(source).expanduser()
    if not path.exists():
        return canonical(source) or source, split or "test"
    images = find_idx(path, split) if path.is_dir() else path if is_idx(path) else None
    if images is None and path.is_dir() and not find_parquet(path):
        images = find_split(path, split)
    return (str(path.resolve()), split) if images is None else (str(images.resolve()), None)


def _open_directory(
    path: Path,
    source: str,
    spec: InputSpec,
    model: ModelClasses,
    *,
    split: str | None,
    label_column: str | None,
    strict: bool,
) -> HeldOut:
    if find_parquet(path):
        return open_parquet(path, spec, model, name=source, split=split, label_column=label_column, strict=strict)
    _refuse(source, "a folder", label_column=label_column)
    images = find_idx(path, split)
    if images is not None:
        return _array_set(str(images), *open_idx(images), spec, model)
    return open_folder(path, spec, model, name=source, split=split, strict=strict)


def _open_file(
    path: Path,
    source: str,
    spec: InputSpec,
    model: ModelClasses,
    *,
    split: str | None,
    label_column: str | None,
    strict: bool,
) -> HeldOut:
    head = _head(path)
    suffix = path.suffix.lower()
    if suffix == ".npz" or head.startswith(b"PK\x03\x04"):
        _refuse(source, "an npz file", label_column=label_column)
        return _array_set(source, *open_npz(path, split), spec, model)
    if suffix == ".parquet" or head == b"PAR1":
        _refuse(source, "one parquet file", split=split)
        return open_parquet(path, spec, model, name=source, label_column=label_column, strict=strict)
    if suffix in (".csv", ".tsv"):
        _refuse(source, "a table", split=split)
        return TableSet(path, spec, model, label_column=label_column)
    if is_idx(path) or "idx" in path.name:
        _refuse(source, "an IDX file", split=split, label_column=label_column)
        return _array_set(source, *open_idx(path), spec, model)
    raise DataError(f"{source} is not held-out data of a known kind", f"give {KINDS}")


def _array_set(name: str, rows: StoredArray, labels: StoredArray, spec: InputSpec, model: ModelClasses) -> ArraySet:
    if labels.shape[0] != rows.shape[0]:
        raise DataError(
            f"{name} has {rows.shape[0]:,} rows but {labels.shape[0]:,} labels", "give one label for every row"
        )
    values, order = read_labels(labels.whole(), model, name=labels.name)
    return ArraySet(name, rows, values, order, spec)


def _head(path: Path) -> bytes:
    """The first bytes of a file, which must be more than a placeholder."""
    if not path.is_file():  # a pipe would wait for ever, a device has no end
        raise DataError(f"{path} is a pipe or a device, not a file", "write it to a file first")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as fault:
        raise DataError(f"{path} cannot be read ({fault.strerror})", f"ls -l {path}") from fault
    if not head:
        raise DataError(f"{path} is empty (0 bytes)", "copy or download it again")
    if head.startswith(b"version https://git-lfs"):
        raise DataError(f"{path} is a Git LFS pointer of {path.stat().st_size} bytes, not the data", "git lfs pull")
    return head[:4]


def _missing(path: Path, source: str) -> DataError:
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    nearest = did_you_mean(path.name, beside) or did_you_mean(source.lower(), TORCHVISION)
    return DataError(f"{source} is neither a file or folder nor a torchvision set", nearest or f"give {KINDS}")


def _refuse(source: str, kind: str, **options: str | None) -> None:
    """Options that mean nothing here are refused, lest they be thought to work."""
    for option, value in options.items():
        if value is not None:
            flag = "--" + option.replace("_", "-")
            raise UsageError(f"{flag} {value} does not apply to {source}, which is {kind}", f"leave {flag} out")
