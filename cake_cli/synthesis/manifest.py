"""manifest.json of a bank: read together with the journals, checked, written whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cake_cli.errors import DataError
from cake_cli.storage import write_text
from cake_cli.synthesis.health import Health
from cake_cli.synthesis.journal import Entry, read_journals

FORMAT = "cake-bank"
SCHEMA_VERSION = 1
NAME = "manifest.json"
_SHARD_NAME = re.compile(r"shard-\d{5,}\.safetensors")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bank with what its journals add, as both were at one moment.

    Raises:
        DataError: if a shard is not there or cut short, or the bank is of another version of the format.
        OSError, ValueError, KeyError, TypeError, AttributeError: if manifest or journals are damaged.
    """
    manifest = _read(folder)
    if manifest["format"] != FORMAT:
        raise ValueError(f"format {manifest['format']!r}")
    schema = manifest["schema_version"]
    if schema != SCHEMA_VERSION:
        raise DataError(
            f"{folder} was written in version {schema} of the bank format, this cake reads {SCHEMA_VERSION}",
            f"use cake {manifest.get('cake_version', '')}, or synthesize the bank again",
        )
    for shard in manifest["shards"]:
        _check_shard(folder, shard)
    for entry in manifest.get("rounds", []):
        if not (type(entry["round"]) is int and type(entry["sha256"]) is str):
            raise ValueError(f"round {entry!r}")
    return manifest


def _read(folder: Path) -> dict[str, Any]:
    file = folder / NAME
    while True:
        written = file.read_text(encoding="utf-8")
        manifest: dict[str, Any] = json.loads(written)
        try:
            told, spent = read_journals(folder)
        except FileNotFoundError:  # who writes the bank has just moved it into the manifest
            continue
        if file.read_text(encoding="utf-8") == written:
            return _merged(manifest, told, spent)


def _merged(manifest: dict[str, Any], told: Iterable[Entry], spent: float) -> dict[str, Any]:
    by_set = {first_set(shard): shard for shard in (*told, *manifest["shards"])}
    manifest["shards"] = [by_set[first] for first in sorted(by_set)]
    budget = manifest["time_budget"]
    if budget is not None:
        budget["spent"] = max(float(budget["spent"]), spent)
    return manifest


def first_set(shard: Entry) -> int:
    """The number of the first set that a shard holds; raises `ValueError` for a name that no shard has."""
    if not _SHARD_NAME.fullmatch(shard["file"]):
        raise ValueError(f"shard name {shard['file']!r}")
    return int(shard["sets"][0])


def _check_shard(folder: Path, shard: Entry) -> None:
    name = shard["file"]  # checked by `first_set`
    file = folder / name
    if not file.is_file() or file.is_symlink():
        raise DataError(f"{folder} has lost its shard {name}", "copy the bank again, or synthesize it again")
    if file.stat().st_size != shard["bytes"]:
        raise DataError(
            f"{file} has {file.stat().st_size} bytes, and the manifest says {shard['bytes']}",
            "copy the bank again, or synthesize it again",
        )
    if len(shard["step_sizes"]) != shard["sets"][1] - shard["sets"][0] or shard["samples"] < 1:
        raise ValueError(f"sets of {name}")
    Health(**shard["health"])


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes manifest.json whole: indented, with a line for each shard.

    Raises:
        EnvironmentFault: if the disk is full or refuses; the old one stays.
    """
    head = {name: value for name, value in manifest.items() if name != "shards"}
    text = json.dumps(head, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
    lines = [json.dumps(shard, ensure_ascii=False, allow_nan=False) for shard in manifest["shards"]]
    shards = "".join(f"\n    {line}," for line in lines).removesuffix(",")
    write_text(folder / NAME, f'{text},\n  "shards": [{shards}\n  ]\n}}\n')
