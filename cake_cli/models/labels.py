"""Class names and tasks as files carry them beside their weights, in the many forms that exporters write."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from cake_cli.text import whole_characters

KEYS = (
    *("cake.class_names", "names", "class_names", "classes", "labels", "class_labels", "categories", "id2label"),
    *("idx_to_class", "index_to_name", "class_to_idx", "label2id", "label_names"),
)
"""Names under which class names are kept, likely ones first; also as files of a TorchScript archive."""
SUFFIXES = (".txt", ".json")
LARGEST = 2**20
"""Characters of a text that is read for names."""


def class_names(metadata: Mapping[str, str], classes: int) -> tuple[str, ...] | None:
    """One name for each class, where a file's metadata have them.

    Args:
        metadata: texts by key. A text may hold a list, a mapping of numbers to names or of names to numbers (as
            JSON or as Python writes it), or one name a line, or names with commas between.
        classes: how many there must be.
    """
    plain = {key.lower(): value for key, value in metadata.items()}
    for suffix in SUFFIXES:
        plain |= {key.removesuffix(suffix): value for key, value in plain.items() if key.endswith(suffix)}
    nested = _parsed(plain.get("config", ""))
    if isinstance(nested, Mapping):  # Ultralytics keeps all of it as one JSON text
        plain = {str(key).lower(): value if isinstance(value, str) else repr(value)
                 for key, value in nested.items()} | plain  # fmt: skip
    for key in KEYS:
        found = _names(plain.get(key, ""), classes)
        if found is not None:
            return found
    return None


def ultralytics_task(metadata: Mapping[str, str]) -> str | None:
    """``classify``, ``detect``, ``segment``, ... of a file that Ultralytics' exporter wrote; None for others."""
    config = _parsed(metadata.get("config.txt", ""))
    stated = {**metadata, **(config if isinstance(config, Mapping) else {})}
    return str(stated["task"]) if "ultralytics" in str(stated.get("author", "")).lower() and "task" in stated else None


def _names(text: str, classes: int) -> tuple[str, ...] | None:
    if not text or len(text) > LARGEST:
        return None
    value = _parsed(text)
    if isinstance(value, Mapping):
        value = _ordered(value)
    elif not isinstance(value, (list, tuple)):
        lines = text.strip().splitlines()
        value = lines if len(lines) > 1 else text.split(",")
    if value is None or len(value) != classes or not all(isinstance(name, (str, int)) for name in value):
        return None
    return tuple(whole_characters(str(name).strip()) for name in value)


def _ordered(table: Mapping[Any, Any]) -> list[Any] | None:
    """The names of a mapping from numbers to names, or from names to numbers, in the order of the numbers."""
    for numbered in (table, {value: key for key, value in table.items() if isinstance(value, (str, int))}):
        try:
            by_number = {int(key): value for key, value in numbered.items()}
        except (TypeError, ValueError, OverflowError):
            continue
        if sorted(by_number) == list(range(len(table))):
            return [by_number[index] for index in range(len(table))]
    return None


def _parsed(text: str) -> Any:
    """A text as JSON, or as a literal of Python; None where it is neither, empty where it cannot be written again."""
    if not text or len(text) > LARGEST:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    try:
        repr(value)
    except ValueError:  # a hexadecimal number of more digits than Python writes
        return ()
    return value
