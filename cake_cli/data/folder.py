"""A folder of images, one folder a class, as torchvision's ImageFolder reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from cake_cli.data.labels import ModelClasses, order_classes
from cake_cli.data.pictures import Picture, PictureSet, open_picture
from cake_cli.errors import DataError, did_you_mean
from cake_cli.spec import InputSpec

SPLITS = ("test", "val", "validation")
"""Folders that are used first where they lie below the one given."""

NAMES_OF_SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval")
"""Folders that are no classes where all are called so, in whatever case."""

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif", ".jfif")
"""Ends of the names of images: those that torchvision takes, and two more that browsers save; of a GIF the first."""

_NAMES_FILE = "classes.txt"


def find_split(root: Path, split: str | None) -> Path:
    """The folder that holds the class folders: `split` below `root`, or one of `SPLITS`, or `root` itself.

    Raises:
        DataError: if `split` is not there.
    """
    if split is not None:
        if (root / split).is_dir():
            return root / split
        below = subfolders(root)
        raise DataError(
            f"{root} has no folder {split!r}; it has {', '.join(below[:8]) or 'none at all'}",
            did_you_mean(split, below) or "--split with one of those",
        )
    return next((root / name for name in SPLITS if (root / name).is_dir() and subfolders(root / name)), root)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders below, sorted, without hidden ones."""
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
    )


def open_folder(
    root: Path,
    spec: InputSpec,
    model: ModelClasses,
    *,
    name: str,
    split: str | None = None,
    strict: bool = False,
) -> PictureSet:
    """A folder as a `HeldOut`.

    Where the model states no class names, a file ``classes.txt`` (one name a line, in the model's order)
    in the folder or above the split does. Class folders and pictures may be links; links to folders further below are
    not followed, for they may lead round in a circle.

    Args:
        root: the folder.
        spec: the classifier's input.
        model: the classifier's classes.
        name: what the user called it.
        split: the folder below `root` to read.
        strict: whether an image that cannot be read is a fault.

    Raises:
        DataError: if there are no class folders, they are not the model's classes, or hold no image.
    """
    folder = find_split(root, split)
    found = subfolders(folder)
    if not found:
        images = any(entry.suffix.lower() in PICTURES for entry in folder.iterdir())
        raise DataError(
            f"{folder} has images but no labels: no folders, one a class"
            if images
            else f"{folder} is empty of folders",
            f"lay it out as {folder.name}/CLASS/picture.png",
        )
    splits = all(name.casefold() in NAMES_OF_SPLITS for name in found) and any(
        subfolders(root / name) for name in found
    )
    if split is None and folder == root and splits and found != ["train"]:
        raise DataError(f"{root} holds {', '.join(found)}, which are splits, not classes", "--split with one of those")
    if split is None and folder == root and "train" in found and len(found) != model.count:
        raise DataError(
            f"{root} holds {', '.join(found)}, none of which is held out", "--split train, if that is meant"
        )
    if model.names is None:
        model = replace(model, names=_names_beside(folder, root))
    order = order_classes(found, model, what=f"folders of {folder}")
    items, links = _pictures_below(folder, order.index)
    filled = {index for _, index in items}
    empty = [label for label, index in order.index.items() if index not in filled]
    notes = list(order.notes)
    if folder != root and split is None:
        notes.insert(0, f"{folder} is used, the split {folder.name!r} of {root}")
    if empty and items:
        notes.append(f"folders of {folder} without an image: {', '.join(empty[:4])}{' …' if len(empty) > 4 else ''}")
    if links:
        notes.append(f"links to folders are not followed: {', '.join(links[:4])}{' …' if len(links) > 4 else ''}")

    def pictures() -> Iterator[Picture]:
        for path, label in items:
            yield Picture(str(Path(path).relative_to(folder)), label, partial(open_picture, Path(path)))

    return PictureSet(name, len(items), pictures, spec, class_names=order.names, notes=tuple(notes), strict=strict)


def _pictures_below(folder: Path, index: Mapping[str, int]) -> tuple[list[tuple[str, int]], list[str]]:
    """Paths of pictures with their classes, in torchvision's order, and the links to folders, seen from `folder`."""
    items, links = [], []
    for label in sorted(index):
        for below, folders, files in sorted(os.walk(folder / label)):
            beside = (Path(below, name) for name in sorted(folders))
            links += [str(path.relative_to(folder)) for path in beside if path.is_symlink()]
            items += [
                (f"{below}{os.sep}{name}", index[label]) for name in sorted(files) if name.lower().endswith(PICTURES)
            ]
    return items, links


def _names_beside(folder: Path, root: Path) -> tuple[str, ...] | None:
    for path in (folder / _NAMES_FILE, root / _NAMES_FILE):
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    return None
