"""manifest.json of a bank: read together with the journals, checked, written whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cake_cli.errors import DataError, UsageError
from cake_cli.forms import parse_json, require_form
from cake_cli.storage import write_text
from cake_cli.synthesis.health import Health
from cake_cli.synthesis.journal import Entry, read_journals

FORMAT = "cake-bank"
SCHEMA_VERSION = 1
NAME = "manifest.json"
MOST_CLASSES = 100_000
MOST_SETS = 2**24
MOST_THREADS = 1024
_SHARD_NAME = re.compile(r"shard-\d{5,}\.safetensors")

_PASSES = {"forward": int, "backward": int}
_SHARD = {
    "file": str,
    "sha256": str,
    "bytes": int,
    "sets": [int],
    "samples": int,
    "step_sizes": [float],
    "rows_per_pass": (None, int),
    "teacher_passes": _PASSES,
    "health": {
        **dict.fromkeys(("on_target", "confidence", "entropy"), float),
        **dict.fromkeys(("saturated?", "dead?", "variety?"), (None, float)),
        **{"samples": int, "histogram": [int], "redrawn?": int},
    },
}
_FORM = {
    "status": str,
    "teacher": {"name": str, "sha256": str},
    "input": dict,
    "classes": int,
    "class_names": (None, [str]),
    "seed": int,
    "synthesis": {"method?": str, "sets_at_once?": (None, int)},
    "outside_contract?": (None, [str]),
    "plan": {"sets": int, "rows": int, "groups": int, "at_once": int, "spread?": bool, "rounds?": int},
    "arithmetic": {"rows_per_pass?": (None, int), "threads?": (None, int), "device?": str, "probe?": dict},
    "time_budget": (None, {"seconds": float, "spent": float, "reached": bool}),
    "rounds?": [{"round": int, "student": str, "sha256": str}],
    "shards": [_SHARD],
}
"""What a manifest must be like, as `cake_cli.forms` reads it; whoever made it may be no friend."""


@contextmanager
def sound(folder: Path) -> Iterator[None]:
    """Reads what a bank says of itself inside; what is missing or wrong there becomes a sentence.

    Raises:
        DataError: if there is no bank, or it is damaged.
    """
    file = folder / NAME
    if not file.is_file():
        raise DataError(f"{folder} is not a sample bank: it has no {NAME}", "cake synthesize TEACHER -o BANK")
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as fault:
        raise DataError(f"{file} is damaged: {fault!r}", "synthesize the bank again") from fault


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
    require_form(manifest, _FORM)
    _check_counts(manifest)
    for shard in manifest["shards"]:
        _check_shard(folder, shard)
    return manifest


def _check_counts(manifest: dict[str, Any]) -> None:
    """Refuses counts that make no sense, or more work than anyone has asked for."""
    plan, arithmetic, names = manifest["plan"], manifest["arithmetic"], manifest["class_names"]
    if min(plan["sets"], plan["rows"], plan["groups"], plan["at_once"]) < 1 or plan["sets"] > MOST_SETS:
        raise ValueError(f"a plan of {plan['sets']} sets of {plan['rows']} rows of {plan['groups']} samples")
    if not 1 <= plan.get("rounds", 1) <= plan["sets"]:
        raise ValueError(f"{plan['rounds']} rounds of {plan['sets']} sets")
    if not 2 <= manifest["classes"] <= MOST_CLASSES or len(names or ()) not in (0, manifest["classes"]):
        raise ValueError(f"{manifest['classes']} classes, {len(names or ())} names of classes")
    if not 1 <= (arithmetic.get("threads") or 1) <= MOST_THREADS or (arithmetic.get("rows_per_pass") or 1) < 1:
        raise ValueError(f"{arithmetic.get('threads')} threads, {arithmetic.get('rows_per_pass')} rows of a pass")
    last = 0
    for shard in manifest["shards"]:  # in order of their sets
        if len(shard["sets"]) != 2 or not last <= shard["sets"][0] < shard["sets"][1] <= plan["sets"]:
            raise ValueError(f"sets {shard['sets']} of {shard['file']}")
        last = shard["sets"][1]
        health = shard["health"]
        counts = [*health["histogram"], *shard["teacher_passes"].values(), shard["rows_per_pass"] or 1]
        if min(counts) < 0 or sum(health["histogram"]) != shard["samples"] or health["samples"] != shard["samples"]:
            raise ValueError(f"figures of {shard['file']}")
        if len(health["histogram"]) != manifest["classes"]:
            raise ValueError(f"{len(health['histogram'])} classes in {shard['file']}, not {manifest['classes']}")


def _read(folder: Path) -> dict[str, Any]:
    file = folder / NAME
    while True:
        written = file.read_text(encoding="utf-8")
        manifest: dict[str, Any] = parse_json(written)
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
