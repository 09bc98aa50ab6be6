"""Copies of a finished bank for other tools: an npz archive, or a folder of pictures as ImageFolder reads it.

Both are in the units of the data, ``z · std + mean``, and labelled with the class that the teacher finds most
probable. They are written from the shards in bounded memory, byte for byte the same from the same bank, and appear
whole or not at all.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from cake_cli.config import BankFormat
from cake_cli.errors import UsageError
from cake_cli.events import Reporter
from cake_cli.models.classifier import Denormalise
from cake_cli.spec import InputSpec, format_shape
from cake_cli.storage import replacing, replacing_folder
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.samples import Samples

ARCHIVE = "samples.npz"
PICTURES = "images"
CLASSES = "classes.txt"
_LONGEST_NAME = 60
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
"""The date of every member of an archive: the earliest that a zip can state, so that equal banks give equal bytes."""


def require_writable(spec: InputSpec, formats: Iterable[BankFormat]) -> None:
    """Refuses formats that cannot hold such inputs.

    Raises:
        UsageError: for pictures of what is no picture.
    """
    if "png" not in formats:
        return
    if not spec.is_image or spec.channels not in (1, 3):
        what = f"inputs of {format_shape(spec.shape)}" if spec.is_image else f"vectors of {spec.values} values"
        raise UsageError(f"png holds images of 1 or 3 channels, not {what}", "--format npz")
    if spec.range is None:
        raise UsageError("which values are black and white is not known", "--input-range 0,1, or --format npz")


def write_copies(bank: SampleBank, formats: Iterable[BankFormat], reporter: Reporter) -> None:
    """Writes the copies that are asked for and not there yet.

    Args:
        bank: complete.
        formats: of `SynthesisConfig.formats`; the shards themselves are there anyway.
        reporter: told of the course.

    Raises:
        UsageError: as `require_writable`.
        DataError: if a shard is damaged.
        EnvironmentFault: if the disk is full or refuses.
    """
    require_writable(bank.spec, formats)
    if "npz" in formats and not (bank.path / ARCHIVE).exists():
        _write_archive(bank, bank.path / ARCHIVE, reporter)
    if "png" in formats and not (bank.path / PICTURES).exists():
        _write_pictures(bank, bank.path / PICTURES, reporter)


def copies_of(bank: SampleBank) -> list[Path]:
    """The copies that are there."""
    return [path for path in (bank.path / ARCHIVE, bank.path / PICTURES) if path.exists()]


Column = Callable[[Samples], NDArray[np.generic]]


def _write_archive(bank: SampleBank, path: Path, reporter: Reporter) -> None:
    to_raw = Denormalise(bank.spec)
    columns: dict[str, tuple[type[np.generic], tuple[int, ...], Column]] = {
        "x": (np.float32, bank.spec.shape, lambda samples: to_raw(samples.inputs).numpy()),
        "y": (np.int64, (), lambda samples: samples.logits.argmax(dim=1).numpy()),
        "logits": (np.float32, (bank.classes,), lambda samples: samples.logits.numpy()),
        "soft_labels": (np.float32, (bank.classes,), lambda samples: samples.logits.softmax(dim=1).numpy()),
    }
    with (
        reporter.stage("npz", len(bank) * len(columns), "rows") as stage,
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for number, (name, (dtype, shape, column)) in enumerate(columns.items()):
            header = {
                "descr": npy.dtype_to_descr(np.dtype(dtype)),
                "fortran_order": False,
                "shape": (len(bank), *shape),
            }
            member = zipfile.ZipInfo(f"{name}.npy", date_time=_FIRST_DAY)
            with archive.open(member, "w", force_zip64=True) as stream:
                npy.write_array_header_1_0(stream, header)
                for samples in bank.shards(check=number == 0):
                    stream.write(np.ascontiguousarray(column(samples), dtype).tobytes())
                    stage.advance(len(samples))
        stage.conclude(f"{len(bank):,} samples in {path.name}")


def _write_pictures(bank: SampleBank, path: Path, reporter: Reporter) -> None:
    names = folder_names(bank.class_names, bank.classes)
    digits = len(str(len(bank) - 1))
    position = 0
    with reporter.stage("png", len(bank), "images") as stage, replacing_folder(path) as temporary:
        (temporary / CLASSES).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        for samples in bank.shards():
            images = to_bytes(samples.inputs, bank.spec)
            for image, label in zip(images, samples.logits.argmax(dim=1).tolist(), strict=True):
                folder = temporary / names[label]
                folder.mkdir(exist_ok=True)
                Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
                    folder / f"{position:0{digits}d}.png"
                )
                position += 1
            stage.advance(len(samples))
        stage.conclude(f"{position:,} images below {path.name}")


def to_bytes(inputs: torch.Tensor, spec: InputSpec) -> NDArray[np.uint8]:
    """Normalised images (N, C, H, W) as uint8 (N, H, W, C), the lowest raw value 0 and the highest 255."""
    low, high = spec.range or (0.0, 1.0)
    raw: torch.Tensor = Denormalise(spec)(inputs)
    scaled = ((raw - low) / (high - low)).clamp(0, 1)
    return scaled.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()  # (N, H, W, C)


def folder_names(class_names: Sequence[str] | None, classes: int) -> list[str]:
    """A folder's name for each class.

    Args:
        class_names: K names, or None.
        classes: K.

    Returns:
        The names themselves, if all can be folders and differ; else each with its index before it, so that the
        order of the folders is that of the classes; indices where there are no names.
    """
    width = len(str(classes - 1))
    indices = [f"{index:0{width}d}" for index in range(classes)]
    if class_names is None:
        return indices
    names = [_safe(name) for name in class_names]
    if names == list(class_names) and all(names) and len({name.casefold() for name in names}) == classes:
        return names
    return [f"{index}-{name}".rstrip("-") for index, name in zip(indices, names, strict=True)]


def _safe(name: str) -> str:
    """Letters, digits and a few signs of a name; never a path, never hidden."""
    kept = "".join(letter if letter.isalnum() or letter in " ._-+" else "_" for letter in name)
    return kept[:_LONGEST_NAME].strip(" .")
