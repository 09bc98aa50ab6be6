"""Zip archives of torch, judged by what they declare before anything in them is unpacked."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

from cake_cli.errors import ModelFileError

RATIO = 10
"""An archive may unpack to this many times its size: torch stores tensors uncompressed, and only code deflated."""
SLACK = 64 * 2**20
"""Bytes that an archive may unpack to whatever its size."""

ARCHIVE_FAULTS = (
    zipfile.BadZipFile,
    OSError,
    NotImplementedError,
    ValueError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
)
"""What `zipfile` raises on damaged archives: names that are no UTF-8 are a ValueError, a password a RuntimeError."""


def damaged_archive(path: Path, fault: Exception) -> ModelFileError:
    """What such a fault means."""
    return ModelFileError(f"{path} is a damaged or truncated archive: {fault}", "copy it again")


def require_sound_archive(path: Path) -> tuple[zipfile.ZipInfo, ...]:
    """The entries of an archive that declares nothing absurd; reads its directory only.

    Raises:
        ModelFileError: if it is damaged, two entries share a name, entries overlap or are packed in other ways
            than torch's, or it would unpack to more than `RATIO` times its size (and more than `SLACK`).
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            entries = tuple(archive.infolist())
    except ARCHIVE_FAULTS as fault:
        raise damaged_archive(path, fault) from fault
    if len({entry.filename for entry in entries}) < len(entries):
        raise ModelFileError(f"{path} is an archive with two entries of one name", "save the model again")
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise ModelFileError(f"{path} is packed as torch packs nothing; it is not loaded", "save the model again")
    declared = sum(entry.file_size for entry in entries)
    if sum(entry.compress_size for entry in entries) > size:
        raise ModelFileError(f"{path} is an archive whose entries overlap; it is not loaded", "save the model again")
    if declared > max(SLACK, RATIO * size):
        raise ModelFileError(
            f"{path} would unpack from {size:,} to {declared:,} bytes, more than {RATIO} times its size; "
            "it is not loaded",
            "save the model again with torch, which does not compress tensors",
        )
    return entries
