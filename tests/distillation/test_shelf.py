"""What a run puts on the disk for itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cake_cli.distillation import shelf as module
from cake_cli.distillation.pool import Part
from cake_cli.distillation.shelf import Shelf
from cake_cli.errors import DataError


def parts(count: int, *, labels: bool) -> Iterator[Part]:
    for number in range(count):
        rows = torch.full((10, 2), float(number))
        yield Part(rows, torch.zeros(10, 7), torch.full((10,), number) if labels else None)


@pytest.mark.parametrize("labels", [True, False])
def test_what_is_put_there_comes_back_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: bool):
    monkeypatch.setattr(module, "SHARD_BYTES", 200)
    shelf = Shelf(tmp_path / "shelf")
    assert not shelf.is_whole
    shelf.fill(parts(7, labels=labels))
    assert shelf.is_whole
    found = shelf.parts((2,), 7)
    assert [len(part.inputs) for part in found] == [30, 30, 10]
    rows = torch.cat([part.inputs for part in found])
    assert torch.equal(rows, torch.cat([part.inputs for part in parts(7, labels=labels)]))
    assert all((part.labels is None) != labels for part in found)


def test_an_attempt_that_was_cut_short_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 100)
    shelf = Shelf(tmp_path)

    def cut_short() -> Iterator[Part]:
        yield from parts(4, labels=False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shelf.fill(cut_short())
    assert not shelf.is_whole
    shelf.fill(parts(2, labels=False))
    assert sum(len(part.inputs) for part in shelf.parts((2,), 7)) == 20


def test_damage_is_said(tmp_path: Path):
    shelf = Shelf(tmp_path)
    shelf.fill(parts(2, labels=True))
    (tmp_path / "shard-00000.safetensors").write_bytes(b"short")
    with pytest.raises(DataError, match="is damaged"):
        shelf.parts((2,), 7)


def test_true_labels_that_are_no_classes_are_damage(tmp_path: Path):
    shelf = Shelf(tmp_path)
    shelf.fill(parts(8, labels=True))
    with pytest.raises(DataError, match="is damaged"):
        shelf.parts((2,), 7)


@pytest.mark.parametrize(("shape", "classes", "count"), [((3,), 7, 20), ((2,), 2, 20), ((2,), 7, 19)])
def test_other_samples_than_a_run_would_write_are_damage(
    tmp_path: Path, shape: tuple[int, ...], classes: int, count: int
):
    shelf = Shelf(tmp_path)
    shelf.fill(parts(2, labels=False))
    assert len(shelf.parts((2,), 7, 20)) == 1
    with pytest.raises(DataError, match="is damaged"):
        shelf.parts(shape, classes, count)
