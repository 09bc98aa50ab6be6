"""Class names and tasks, in the forms that exporters write."""

from __future__ import annotations

import json

import pytest

from cake_cli.models.labels import class_names, ultralytics_task

NAMES = ("cat", "dog", "fox")


@pytest.mark.parametrize("metadata", [
    {"cake.class_names": '["cat", "dog", "fox"]'},
    {"names": "{0: 'cat', 1: 'dog', 2: 'fox'}", "task": "classify"},
    {"names": "['cat', 'dog', 'fox']"},
    {"classes": "cat,dog, fox"},
    {"labels.txt": "cat\ndog\nfox\n"},
    {"id2label": '{"0": "cat", "2": "fox", "1": "dog"}'},
    {"class_to_idx": '{"fox": 2, "cat": 0, "dog": 1}'},
    {"index_to_name.json": '{"0": "cat", "1": "dog", "2": "fox"}'},
    {"config.txt": json.dumps({"author": "Ultralytics", "names": {"0": "cat", "1": "dog", "2": "fox"}})},
    {"names": "nothing of use", "classes": "3", "Labels": "cat,dog,fox"},
])  # fmt: skip
def test_names_are_read(metadata: dict[str, str]) -> None:
    assert class_names(metadata, 3) == NAMES


@pytest.mark.parametrize("metadata", [
    {},
    {"names": "['cat', 'dog']"},
    {"names": "{0: 'cat', 1: 'dog', 3: 'fox'}"},
    {"names": "[[1], [2], [3]]"},
    {"names": "__import__('os').system('true'), 1, (2"},
    {"names": "[" * 100_000},
    {"names": "(" * 5_000},
    {"names": "-" * 100_000 + "1"},
    {"names": "9" * 100_000},
    {"config.txt": "[" * 100_000},
    {"names": "{1e999: 'cat', 2: 'dog', 3: 'fox'}"},
    {"names": f"[0x{'f' * 5000}, 1, 2]"},
    {"config.txt": f"{{'names': [0x{'f' * 5000}, 1, 2]}}"},
    {"config.txt": "{'names': b'cat'}"},
    {"description": "cat,dog,fox"},
])  # fmt: skip
def test_what_does_not_name_each_class_is_left(metadata: dict[str, str]) -> None:
    found = class_names(metadata, 3)
    assert found is None or found[0].startswith("__import__"), "a text with two commas: names, never run"


def test_a_task_is_read_of_ultralytics_only() -> None:
    assert ultralytics_task({"author": "Ultralytics", "task": "detect"}) == "detect"
    assert ultralytics_task({"config.txt": '{"author": "Ultralytics", "task": "classify"}'}) == "classify"
    assert ultralytics_task({"author": "me", "task": "detect"}) is None
    assert ultralytics_task({"author": "Ultralytics"}) is None
    assert ultralytics_task({"config.txt": f"{{'author': 'Ultralytics', 'task': 0x{'f' * 5000}}}"}) is None
