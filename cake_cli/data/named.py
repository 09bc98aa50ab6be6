"""Sets that torchvision knows by name, from a folder where they lie already or are downloaded to."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image

from cake_cli.data.labels import ClassOrder, ModelClasses, order_classes
from cake_cli.data.pictures import Picture, PictureSet
from cake_cli.errors import DataError, EnvironmentFault, UsageError
from cake_cli.spec import InputSpec

_TRAIN = {"train": True, "test": False}
_BY_TRAIN = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST", "qmnist": "QMNIST",
             "usps": "USPS", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # fmt: skip
_BY_SPLIT = {"svhn": "SVHN", "stl10": "STL10", "gtsrb": "GTSRB", "food101": "Food101", "dtd": "DTD",
             "flowers102": "Flowers102", "fgvc-aircraft": "FGVCAircraft", "country211": "Country211",
             "rendered-sst2": "RenderedSST2"}  # fmt: skip

TORCHVISION = (*_BY_TRAIN, *_BY_SPLIT)
"""Names that `open_named` takes; each has a test split."""


def canonical(source: str) -> str | None:
    """The name in `TORCHVISION` that is meant (``CIFAR-10`` is cifar10), or None."""
    plain = {name.replace("-", ""): name for name in TORCHVISION}
    return plain.get(source.lower().replace("-", "").replace("_", ""))


def open_named(
    name: str,
    spec: InputSpec,
    model: ModelClasses,
    *,
    data_root: Path | None,
    download: bool = False,
    split: str | None = None,
    strict: bool = False,
) -> PictureSet:
    """The test split, or `split`, of a torchvision set as a `HeldOut`.

    Args:
        name: one of `TORCHVISION`.
        spec: the classifier's input.
        model: the classifier's classes.
        data_root: torchvision's ``root``, where the set lies or is put.
        download: whether torchvision may fetch the set; else nothing leaves the machine.
        split: as torchvision names it; ``test`` where None.
        strict: whether an image that cannot be read is a fault.

    Raises:
        UsageError: if `data_root` is not given, or the set has no such split.
        EnvironmentFault: if the set needs a package that is missing.
        DataError: if the set is not there, is damaged, or does not fit the model.
    """
    if data_root is None:
        raise UsageError(f"{name} is a torchvision set, whose folder is not given", "--data-root DIR")
    images = _load(name, data_root, split or "test", download)
    stated = [_text(label) for label in getattr(images, "classes", None) or ()]
    order = order_classes(stated, model, what=f"classes of {name}") if stated else ClassOrder({}, model.names)
    if len(order.index) < len(stated):
        raise DataError(
            f"{name} has {len(stated)} classes, of which the model knows {len(order.index)}",
            "give the set that the model was made for",
        )
    index = [order.index[label] for label in stated] or list(range(model.count))

    def pictures() -> Iterator[Picture]:
        for position in range(len(images)):
            try:
                image, label = images[position]
            except Exception as fault:  # a damaged file: told like any unreadable picture
                yield Picture(f"image {position}", 0, partial(_failing, fault))
                continue
            if not 0 <= int(label) < len(index):
                raise DataError(
                    f"image {position} of {name} has label {int(label)}, the model has {model.count} classes",
                    "give the set that the model was made for",
                )
            yield Picture(f"image {position}", index[int(label)], partial(_given, image))

    return PictureSet(name, len(images), pictures, spec, class_names=order.names, notes=order.notes, strict=strict)


def _load(name: str, root: Path, split: str, download: bool) -> Any:
    settings: dict[str, Any] = {"root": root, "download": download}
    if name in _BY_TRAIN:
        if split not in _TRAIN:
            raise UsageError(f"{name} has the splits train and test, not {split!r}", "--split test")
        settings["train"] = _TRAIN[split]
    else:
        settings["split"] = split
    from torchvision import datasets  # takes seconds, and only these sets need it

    kind = getattr(datasets, {**_BY_TRAIN, **_BY_SPLIT}[name])
    try:
        return kind(**settings)
    except ImportError as fault:
        raise EnvironmentFault(f"{name} needs the package {fault.name}", f"pip install {fault.name}") from fault
    except Exception as fault:
        if not download and (isinstance(fault, FileNotFoundError) or "download" in str(fault).lower()):
            raise DataError(
                f"{name} is not in {root}", "--data-root with the folder that holds it, or --download"
            ) from fault
        fix = "check the network, or put it there by hand" if download else "--download into an empty folder"
        reason = (str(fault).splitlines() or [type(fault).__name__])[0]
        raise DataError(f"torchvision cannot read {name} in {root} ({reason})", fix) from fault


def _text(label: Any) -> str:
    """Some sets name a class by a tuple of synonyms."""
    return str(label[0]) if isinstance(label, tuple) else str(label)


def _given(image: Image.Image) -> Image.Image:
    return image


def _failing(fault: Exception) -> NoReturn:
    raise fault
