"""What lies in a TorchScript archive beside its program: texts, and the example that it was traced with."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from cake_cli.models.archive import ARCHIVE_FAULTS, damaged_archive

LARGEST_EXTRA = 2**20
"""Bytes of a text beside the program that is still read."""


def read_extra(path: Path, entries: Iterable[zipfile.ZipInfo]) -> dict[str, str]:
    """The texts that a file carries beside its program, from ``torch.jit.save(..., _extra_files=...)``.

    Args:
        path: the file.
        entries: of its archive; those that declare more than `LARGEST_EXTRA` bytes are left alone.

    Raises:
        ModelFileError: if one is damaged.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in entries:
                _, folder, name = f"/{entry.filename}".rpartition("/extra/")
                if folder and name and entry.file_size <= LARGEST_EXTRA:
                    found[name] = archive.read(entry).decode("utf-8", "replace")
    except ARCHIVE_FAULTS as fault:
        raise damaged_archive(path, fault) from fault
    return found


def traced_shape(path: Path) -> tuple[int, ...] | None:
    """The shape of the example that a file was traced with, from the record that torch keeps of it.

    The record is a pickle: its opcodes are read one by one, and nothing of it is executed.
    """
    reader: Any = torch._C.PyTorchFileReader(str(path))
    if not reader.has_record("traced_inputs.pkl"):
        return None
    try:
        opcodes = [
            (code.name, argument)
            for code, argument, _ in pickletools.genops(bytes(reader.get_record("traced_inputs.pkl")))
            if "PUT" not in code.name
        ]
    except (ValueError, IndexError):
        return None
    shapes = [_tuple_after(opcodes, place) for place, (name, _) in enumerate(opcodes) if name == "BINPERSID"]
    return shapes[0] if len(shapes) == 1 else None


def _tuple_after(opcodes: list[tuple[str, Any]], place: int) -> tuple[int, ...]:
    """The numbers between the first mark after a storage and its end: the tensor's sizes."""
    sizes: list[int] = []
    for name, argument in opcodes[place + 3 :]:
        if name == "TUPLE" or not isinstance(argument, int):
            break
        sizes.append(argument)
    return tuple(sizes)
