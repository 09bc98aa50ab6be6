"""Real data that a student is to learn from: opened as held-out data are, but not the split that is for measuring."""

from __future__ import annotations

import zipfile
from pathlib import Path

from cake_cli.data.folder import SPLITS, subfolders
from cake_cli.data.named import canonical
from cake_cli.data.parquet import find_parquet
from cake_cli.data.stored import explained
from cake_cli.errors import DataError

TRAIN = "train"
_MEASURING = (*SPLITS, "t10k")


def training_split(source: str) -> str | None:
    """The split of a source that is for training; None where it has no splits.

    Raises:
        DataError: if there are only splits for measuring.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        splits = [name for name in subfolders(path) if name in (TRAIN, *_MEASURING) and subfolders(path / name)]
        names = [*splits, *(file.name for file in (*path.iterdir(), *find_parquet(path)) if file.is_file())]
    elif path.suffix.lower() == ".npz" and path.is_file():
        with explained(str(path)), zipfile.ZipFile(path) as archive:
            keys = [name.removesuffix(".npy").lower() for name in archive.namelist()]
        names = [key.removeprefix("x_").removesuffix("_images") for key in keys]
    else:
        return TRAIN if not path.exists() and canonical(source) is not None else None
    if any(_is_of(name, TRAIN) for name in names):
        return TRAIN
    measuring = [split for split in _MEASURING if any(_is_of(name, split) for name in names)]
    if measuring and not {"x", "images"} & set(names):
        raise DataError(
            f"{source} has no split to train on, only {' and '.join(measuring)}",
            f"give data to train on, or --set training.real_split={measuring[0]} if that is meant",
        )
    return None


def _is_of(name: str, split: str) -> bool:
    """Whether a folder, a key or a file is of a split."""
    return name == split or name.startswith((f"{split}-", f"{split}_", f"{split}."))
