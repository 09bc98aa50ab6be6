"""What a bank has gained since its manifest was last written: a line for each shard, a file for each rank.

Appending a line costs the same however large the bank is, and a reader of manifest and journals sees every shard
that is whole. A line that a kill cut short has no end, and is passed over.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cake_cli.forms import parse_json
from cake_cli.storage import append_line

_NAME = re.compile(r"journal-\d{5,}\.jsonl")

Entry = dict[str, Any]
"""A shard, as the manifest lists it."""


def journals(folder: Path) -> list[Path]:
    """The journals of a bank, in order of rank."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name) and not path.is_symlink())


def write_entry(folder: Path, rank: int, shard: Entry, spent: float) -> None:
    """Notes a shard that is whole.

    Args:
        folder: of the bank.
        rank: who made it.
        shard: its entry.
        spent: seconds of synthesis until now, over all attempts.

    Raises:
        EnvironmentFault: if the disk is full or refuses; the journal stays as it was.
    """
    line = json.dumps({"shard": shard, "spent": round(spent, 3)}, ensure_ascii=False, allow_nan=False)
    append_line(folder / f"journal-{rank:05d}.jsonl", line)


def read_journals(folder: Path) -> tuple[list[Entry], float]:
    """The entries of all journals, and the seconds of synthesis that they tell of.

    Raises:
        ValueError, KeyError, TypeError: if a journal is damaged.
    """
    shards: list[Entry] = []
    spent = 0.0
    for path in journals(folder):
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
        for line in whole.splitlines():
            entry = parse_json(line)
            shards.append(entry["shard"])
            spent = max(spent, float(entry["spent"]))
    return shards, spent
