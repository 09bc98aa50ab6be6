"""What a file of ours says of itself: texts under ``cake.`` keys, as ONNX metadata or as an attached JSON record."""

from __future__ import annotations

import zipfile
from pathlib import Path

from cake_cli.forms import parse_json
from cake_cli.models.archive import ARCHIVE_FAULTS

ATTACHED = "cake.json"
"""Name of the extra file that holds the texts, a JSON object, in TorchScript and torch.export archives."""
LARGEST = 2**20
"""Bytes: a longer record is not ours."""


def read_attached(path: Path) -> dict[str, str]:
    """The texts that an archive of torch carries under `ATTACHED`; reads that record only, and trusts nothing else.

    Returns:
        Texts by key; empty where there is no record, or it is not one of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next((entry for entry in archive.infolist() if entry.filename.endswith(f"/extra/{ATTACHED}")), None)
            if entry is None or entry.file_size > LARGEST:
                return {}
            content = parse_json(archive.read(entry))
    except ARCHIVE_FAULTS:
        return {}
    if not isinstance(content, dict):
        return {}
    return {str(key): value for key, value in content.items() if isinstance(value, str)}
