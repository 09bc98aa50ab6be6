"""The bank of a run, shared by ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event, current_thread

import pytest

from cake_cli.config import Config
from cake_cli.errors import CakeError, DataError, EnvironmentFault
from cake_cli.locks import held
from cake_cli.ranks import Ranks
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.engine import Engine, Wave
from cake_cli.synthesizing import dead_ranks
from tests.cli.conftest import snapshot
from tests.synthesizing.conftest import before_each_wave, made, on_ranks


@pytest.mark.parametrize("world", [2, 3, 7])
def test_the_bank_of_several_ranks_is_that_of_one(
    config: Config, tmp_path: Path, undisturbed: dict[str, str], world: int
) -> None:
    ended = on_ranks(world, config, tmp_path / "bank")
    assert isinstance(ended[0], SampleBank)
    assert snapshot(tmp_path / "bank") == undisturbed


def test_each_rank_makes_some_of_it(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, told, met, meeting = SampleBank.add, [], set(), Barrier(2, timeout=60)

    def both_have_one(engine: Engine, sets: range) -> None:
        if (rank := current_thread().name) not in met:
            met.add(rank)
            meeting.wait()

    def seen(bank: SampleBank, wave: Wave, **keywords: object):
        told.append((bank.rank, wave.sets.start))
        return add(bank, wave, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(SampleBank, "add", seen)
    before_each_wave(monkeypatch, both_have_one)
    on_ranks(2, replace(config, synthesis=replace(config.synthesis, samples=900)), tmp_path / "bank")
    assert {rank for rank, _ in told} == {0, 1}
    assert sorted(first for _, first in told) == list(range(30))


def test_the_fault_of_one_rank_ends_the_job_and_another_number_goes_on(
    config: Config, tmp_path: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add, announce, told = SampleBank.add, Ranks._announce, Event()

    def first_waits(engine: Engine, sets: range) -> None:
        if current_thread().name == "rank 0":
            told.wait(60)  # or it has made all before the other took a turn

    def announced(ranks: Ranks, fault: Exception) -> None:
        announce(ranks, fault)
        told.set()

    def broken(bank: SampleBank, wave: Wave, **keywords: object):
        if bank.rank == 1:
            raise EnvironmentFault("no space left on the disk of shard", "free some space")
        return add(bank, wave, **keywords)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(SampleBank, "add", broken)
        patch.setattr(Ranks, "_announce", announced)
        before_each_wave(patch, first_waits)
        first = on_ranks(2, config, tmp_path / "bank")[0]
    assert isinstance(first, CakeError)
    assert first.what == "rank 1 of 2: no space left on the disk of shard"
    assert first.exit_code == 5
    assert not SampleBank.open(tmp_path / "bank").is_complete
    assert isinstance(on_ranks(3, config, tmp_path / "bank")[0], SampleBank)
    assert snapshot(tmp_path / "bank") == undisturbed


def test_a_rank_that_is_gone_is_known_by_its_lock(tmp_path: Path) -> None:
    ranks = Ranks(0, 4)
    with held(tmp_path, ".lock-1"):
        (tmp_path / ".lock-2").write_bytes((tmp_path / ".lock-1").read_bytes())
        assert dead_ranks(tmp_path, ranks) == [2]


def test_the_locks_of_dead_ranks_are_cleared(config: Config, tmp_path: Path, undisturbed: dict[str, str]) -> None:
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / ".lock-5").write_text("{}")
    made(config, tmp_path / "bank")
    assert snapshot(tmp_path / "bank") == undisturbed


@pytest.mark.parametrize("name", [".lock", ".lock-1"])
def test_a_bank_in_use_is_refused(config: Config, tmp_path: Path, name: str) -> None:
    (tmp_path / "bank").mkdir()
    with held(tmp_path / "bank", name), pytest.raises(DataError, match="in use by process"):
        made(config, tmp_path / "bank")
