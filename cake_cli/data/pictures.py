"""Held-out images that are decoded one by one: files of a folder, cells of a table, items of a torchvision set."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cake_cli.data.fitting import Fitting
from cake_cli.errors import DataError
from cake_cli.spec import InputSpec
from cake_cli.threads import compute_alone

_DECODERS = min(8, os.cpu_count() or 1)
_PEEKED = 16
"""How many pictures may be unreadable before the first that shows whether the set fits."""
FORMATS = ("PNG", "JPEG", "BMP", "PPM", "GIF", "TIFF", "WEBP")
"""What is decoded, whatever a file is called: some of Pillow's other readers start programs."""
_MOST_HELD = 1 << 27
"""Bytes of pictures, not yet decoded, that make a batch smaller than was asked."""
_NAMED = 3
"""How many unreadable pictures a note names."""


@dataclass(frozen=True)
class Picture:
    """One labelled image, not yet decoded."""

    where: str
    """What messages call it."""
    label: int
    """0..K-1."""
    load: Callable[[], Image.Image]
    """Opens it."""
    held: int = 0
    """Bytes that it keeps in memory until then."""


class PictureSet:
    """A `HeldOut` over pictures; those that cannot be read are left out, counted and named in the notes.

    Args:
        name: what the user called it.
        count: how many pictures there are.
        pictures: begins a pass over them.
        spec: the classifier's input.
        class_names: K names in the model's order, where known.
        notes: what is known already.
        strict: whether a picture that cannot be read is a fault, not a note.

    Raises:
        DataError: if there are none, or the first that can be read does not fit the spec.
    """

    def __init__(
        self,
        name: str,
        count: int,
        pictures: Callable[[], Iterator[Picture]],
        spec: InputSpec,
        *,
        class_names: tuple[str, ...] | None = None,
        notes: tuple[str, ...] = (),
        strict: bool = False,
    ) -> None:
        if count == 0:
            raise DataError(f"{name} has no images", "give a held-out set with at least one")
        self.name = name
        self.class_names = class_names
        self._count = count
        self._pictures = pictures
        self._first_notes = notes
        self._strict = strict
        self._fitting = Fitting(spec, name)
        self._faults: dict[str, str] = {}
        self._peek()

    @property
    def samples(self) -> int:
        """Pictures, without those found unreadable so far."""
        return self._count - len(self._faults)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, so far."""
        notes = [*self._first_notes, *self._fitting.notes]
        if self._faults:
            images = "image" if len(self._faults) == 1 else "images"
            notes.append(f"{len(self._faults)} {images} could not be read and left out: {self._named()}")
        return tuple(notes)

    def _named(self) -> str:
        """The first unreadable pictures, and why."""
        named = ", ".join(f"{where} ({why})" for where, why in islice(self._faults.items(), _NAMED))
        return named + (f" and {len(self._faults) - _NAMED} more" if len(self._faults) > _NAMED else "")

    def _require_readable(self) -> None:
        if self._strict and self._faults:
            raise DataError(
                f"{self.name} holds images that cannot be read: {self._named()}",
                "mend or remove them, or leave --strict out: then they are left out and counted",
            )

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See `HeldOut.batches`."""
        with ThreadPoolExecutor(_DECODERS, initializer=compute_alone) as pool:
            for chunk in _chunks(self._pictures(), batch_size):
                with _quiet():
                    rows = list(pool.map(self._row, chunk))
                self._require_readable()
                read = [(row, picture.label) for row, picture in zip(rows, chunk, strict=True) if row is not None]
                if read:
                    yield torch.cat([row for row, _ in read]), torch.tensor([label for _, label in read])
        if self.samples == 0:
            raise DataError(f"none of the images of {self.name} can be read: {self.notes[-1]}", "look at the files")

    def _peek(self) -> None:
        """Fits the first readable picture, where a misfit is the whole set's."""
        for picture in islice(self._pictures(), _PEEKED):
            with _quiet():
                image = self._decoded(picture)
            self._require_readable()
            if image is not None:
                self._fitting.images(image)
                return

    def _row(self, picture: Picture) -> Tensor | None:
        """float32 (1, *spec.shape), or None where the picture is of no use."""
        image = self._decoded(picture)
        if image is None:
            return None
        try:
            return self._fitting.images(image)
        except DataError as fault:
            self._faults[picture.where] = fault.what
            return None

    def _decoded(self, picture: Picture) -> Tensor | None:
        """uint8 (1, C, H, W), or None where the picture cannot be read."""
        try:
            with picture.load() as image:
                return to_tensor(image)
        except Exception as fault:  # Pillow's decoders raise of every kind on damaged files
            self._faults[picture.where] = _reason(fault)
            return None


def _chunks(pictures: Iterator[Picture], most: int) -> Iterator[list[Picture]]:
    """Pictures, at most so many at a time, and fewer where they fill memory."""
    chunk: list[Picture] = []
    held = 0
    for picture in pictures:
        chunk.append(picture)
        held += picture.held
        if len(chunk) == most or held >= _MOST_HELD:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def open_picture(source: Path | BytesIO) -> Image.Image:
    """A picture in one of `FORMATS`.

    Raises:
        OSError: if it is none, or a pipe or a device, which could be waited for in vain.
    """
    if isinstance(source, Path) and not source.is_file():
        raise OSError("not a file")
    return Image.open(source, formats=FORMATS)


def to_tensor(image: Image.Image) -> Tensor:
    """A picture as uint8 (1, C, H, W), with one channel or three; transparency is left out.

    Raises:
        ValueError: if the picture's values have no known scale (32-bit integers and floats).
        OSError: if it cannot be decoded.
    """
    if image.mode.startswith("I;16"):
        values = (np.asarray(image).astype(np.uint32) + 128) // 257  # 0..65535 to 0..255, rounded
        return torch.from_numpy(values.astype(np.uint8))[None, None]  # (H, W) -> (1, 1, H, W)
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of Pillow's mode {image.mode} have no known scale")
    grey = image.mode in ("1", "L", "LA")
    pixels = torch.from_numpy(np.array(image.convert("L" if grey else "RGB")))  # (H, W) or (H, W, 3)
    return (pixels[None] if grey else pixels.movedim(2, 0))[None]  # (1, C, H, W)


class _quiet(warnings.catch_warnings):  # noqa: N801 - used as a verb
    """Decoders' warnings are dropped, but an image too large to be honest is a fault."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)


def _reason(fault: Exception) -> str:
    if isinstance(fault, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels"
    if isinstance(fault, UnidentifiedImageError):
        return "not an image"
    return str(fault) or type(fault).__name__
