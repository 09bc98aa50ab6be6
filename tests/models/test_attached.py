"""Texts that archives carry are read without trust in them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from cake_cli.models.attached import ATTACHED, LARGEST, read_attached


def archive(path: Path, content: str, name: str = f"model/extra/{ATTACHED}") -> Path:
    with zipfile.ZipFile(path, "w") as target:
        target.writestr(name, content)
    return path


def test_texts_are_read_and_anything_else_is_passed_over(tmp_path: Path):
    assert read_attached(archive(tmp_path / "a", '{"cake.classes": "3", "n": 1}')) == {"cake.classes": "3"}


@pytest.mark.parametrize(
    "content", ["", "not json", "[1]", '"text"', "null", " " * (LARGEST + 1), "\ud800".encode("utf-8", "surrogatepass")]
)
def test_a_record_that_is_not_ours_is_none(tmp_path: Path, content: str):
    assert read_attached(archive(tmp_path / "a", content)) == {}


def test_no_record_no_archive(tmp_path: Path):
    assert read_attached(archive(tmp_path / "a", "{}", "model/extra/other.json")) == {}
    (tmp_path / "b").write_bytes(b"PK\x03\x04")
    assert read_attached(tmp_path / "b") == {}
    assert read_attached(tmp_path / "none") == {}
