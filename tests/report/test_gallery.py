from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cake_cli.errors import DataError
from cake_cli.report.gallery import choose_classes, denormalise, peek, rows_by_class, spread
from cake_cli.spec import InputSpec
from cake_cli.synthesis import shards
from cake_cli.synthesis.samples import Samples
from tests.report import made


def test_spread_keeps_both_ends() -> None:
    assert spread([1, 2, 3], 5) == [1, 2, 3]
    assert spread(list(range(100)), 4) == [0, 33, 66, 99]


def test_classes_are_those_with_enough_samples_evenly_spread() -> None:
    assert choose_classes([0, 3, 0, 1]) == [1, 3]
    chosen = choose_classes([1, 20] * 50)
    assert len(chosen) == 10
    assert all(index % 2 == 1 for index in chosen)
    assert chosen[0] == 1
    assert chosen[-1] == 99
    assert len(choose_classes([1] * 1000)) == 10


def test_denormalised_values_lie_in_the_raw_range() -> None:
    spec = InputSpec((2, 1, 1), (0.5, 0.25), (0.5, 0.1), (0.0, 1.0))
    raw = denormalise(np.array([[[[0.5]], [[-9.0]]]], np.float32), spec)
    np.testing.assert_allclose(raw.flatten(), [0.75, 0.0])
    free = denormalise(np.array([[9.0, -9.0]], np.float32), InputSpec((2,), (1.0,), (2.0,), None))
    np.testing.assert_allclose(free, [[19.0, -17.0]])


def test_rows_hold_what_the_teacher_takes_for_a_class_by_falling_step_size() -> None:
    logits = torch.tensor([[0.0, 4.0], [0.0, 2.0], [3.0, 0.0]])
    samples = Samples(torch.zeros(3, 1, 2, 2), logits, torch.tensor([1, 0, -1]), torch.tensor([0.01, 0.1, 1.0]))
    rows = rows_by_class(samples, InputSpec((1, 2, 2)), 2, ("cat", "dog"))
    assert [row.name for row in rows] == ["cat", "dog"]
    assert [round(shown.step_size, 3) for shown in rows[1].samples] == [0.1, 0.01]
    assert rows[1].samples[1].confidence == pytest.approx(1 / (1 + np.exp(-4.0)))
    assert [shown.target for shown in rows[1].samples] == [0, 1]


def test_peek_reads_a_few_shards_from_first_to_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = made.bank(tmp_path / "bank", made.teacher(made.DIGITS, 10), shards=20, set_size=100)
    read: list[str] = []
    load = shards.load_file

    def counted(file: Path) -> dict[str, torch.Tensor]:
        read.append(file.name)
        return load(file)

    monkeypatch.setattr(shards, "load_file", counted)
    few = peek(bank)
    assert few is not None
    assert len(read) == 6
    assert (read[0], read[-1]) == ("shard-00000.safetensors", "shard-00019.safetensors")
    assert len(few) <= 6 * 10 * 4
    assert set(few.logits.argmax(dim=1).tolist()) == set(range(10))


def test_peek_of_an_empty_or_damaged_bank(tmp_path: Path) -> None:
    model = made.teacher(made.DIGITS, 10)
    assert peek(made.bank(tmp_path / "empty", model, shards=0)) is None
    bank = made.bank(tmp_path / "bank", model, shards=1)
    shard = bank.path / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        peek(bank)
