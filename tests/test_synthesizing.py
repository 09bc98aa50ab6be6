"""The bank of a run: shared by ranks, stopped and gone on with, short of memory, disk and time."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event, Thread, current_thread

import pytest
import torch
from torch.distributed import HashStore

from cake_cli.config import Config
from cake_cli.errors import CakeError, DataError, EnvironmentFault, RunError
from cake_cli.events import SILENT, SilentReporter
from cake_cli.locks import held
from cake_cli.planning import prepare
from cake_cli.ranks import Ranks, SharedBoard
from cake_cli.synthesis import bank as bank_module
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.course import Course
from cake_cli.synthesis.engine import Engine, Wave
from cake_cli.synthesis.step import PlainStep, Walk
from cake_cli.synthesizing import dead_ranks, synthesize
from tests.cli.conftest import snapshot
from tests.test_planning import small

Struck = Callable[[Engine, range], None]


@pytest.fixture
def config(mlp_file: Path) -> Config:
    """Five waves of thirty samples, in copies of all formats."""
    config = small(mlp_file)
    settings = replace(config.synthesis, samples=150, sets_at_once=1, formats=("safetensors", "npz", "png"))
    return replace(config, synthesis=settings)


@pytest.fixture
def undisturbed(config: Config, tmp_path: Path) -> dict[str, str]:
    made(config, tmp_path / "undisturbed")
    return snapshot(tmp_path / "undisturbed")


class Heard(SilentReporter):
    """Keeps what is noted and warned of."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        if not text.startswith("   "):  # of the samples
            self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def made(config: Config, path: Path, ranks: Ranks | None = None, reporter: SilentReporter | None = None) -> SampleBank:
    return synthesize(prepare(config, student=False), path, reporter or SILENT, ranks=ranks)


def before_each_wave(patch: pytest.MonkeyPatch, strike: Struck) -> None:
    wave = Engine.wave

    def struck(engine: Engine, sets: range, stage: object) -> Wave:
        strike(engine, sets)
        return wave(engine, sets, stage)  # type: ignore[arg-type]

    patch.setattr(Engine, "wave", struck)


def on_ranks(world: int, config: Config, path: Path) -> list[SampleBank | CakeError]:
    """What each of several ranks, here threads of this process, comes to."""
    store = HashStore()
    ended: list[SampleBank | CakeError | None] = [None] * world

    def take_part(rank: int) -> None:
        ranks = Ranks(rank, world, board=SharedBoard(store))
        try:
            ended[rank] = made(config, path, ranks)
        except CakeError as fault:
            ranks._announce(fault)
            ended[rank] = fault

    threads = [Thread(target=take_part, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(world)]
    for thread in threads:
        thread.start()
    threads[0].join(60)
    if isinstance(ended[0], SampleBank):
        for thread in threads:
            thread.join(60)
    return ended  # type: ignore[return-value]


# --- ranks --------------------------------------------------------------------------------------------------------


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


# --- what it may go on with ---------------------------------------------------------------------------------------


def test_other_settings_are_another_bank(config: Config, tmp_path: Path) -> None:
    made(config, tmp_path / "bank")
    before = snapshot(tmp_path / "bank")
    for other in (
        replace(config, seed=1),
        replace(config, synthesis=replace(config.synthesis, steps=5)),
        replace(config, synthesis=replace(config.synthesis, samples=300)),
    ):
        with pytest.raises(DataError, match="begun with other settings"):
            made(other, tmp_path / "bank")
    assert snapshot(tmp_path / "bank") == before


def stop_after(waves: int, config: Config, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupts in the wave after so many."""

    def strike(engine: Engine, sets: range) -> None:
        if sets.start >= waves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        before_each_wave(patch, strike)
        with pytest.raises(KeyboardInterrupt):
            made(config, path)
    assert SampleBank.open(path).finished_waves == waves


def test_sets_at_once_stay_as_they_were_begun_and_that_is_said(
    config: Config, tmp_path: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(2, config, tmp_path / "bank", monkeypatch)
    heard = Heard()
    made(replace(config, synthesis=replace(config.synthesis, sets_at_once=3)), tmp_path / "bank", reporter=heard)
    assert len(heard.notes) == 1
    assert "goes on with 1 sets at once, as it was begun; with 3" in heard.notes[0]
    assert "only up to rounding" in heard.notes[0]
    assert snapshot(tmp_path / "bank") == undisturbed


def test_another_device_or_version_is_said(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(1, config, tmp_path / "bank", monkeypatch)
    file = tmp_path / "bank" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["arithmetic"] |= {"device": "NVIDIA H200", "precision": "bf16"}
    file.write_text(json.dumps(manifest))
    heard = Heard()
    made(config, tmp_path / "bank", reporter=heard)
    assert [note.split(" its samples")[0] for note in heard.notes] == [
        f"the bank was begun with device NVIDIA H200 and goes on with cpu ({torch.backends.cpu.get_cpu_capability()}):",
        "the bank was begun with precision bf16 and goes on with fp32:",
    ]


def test_threads_are_those_it_was_begun_with(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), []
    stop_after(1, config, tmp_path / "bank", monkeypatch)
    try:
        torch.set_num_threads(before + 1)
        before_each_wave(monkeypatch, lambda engine, sets: seen.append(torch.get_num_threads()))
        made(config, tmp_path / "bank")
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {before}


def test_a_collapse_is_an_error_with_advice(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = Engine.wave

    def one_class(engine: Engine, *arguments: object) -> Wave:
        made = wave(engine, *arguments)  # type: ignore[arg-type]
        made.samples.logits.copy_(torch.tensor([9.0, 0.0, 0.0]).expand_as(made.samples.logits))
        return made

    monkeypatch.setattr(Engine, "wave", one_class)
    with pytest.raises(RunError, match=r"degenerate: the teacher puts 100%") as caught:
        made(config, tmp_path / "bank")
    assert caught.value.fix


# --- memory -------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_bank(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most two waves are there: the one that was just made, and the one that is being written."""
    wave, references, most = Engine.wave, [], []

    def counted(engine: Engine, *arguments: object) -> Wave:
        made = wave(engine, *arguments)  # type: ignore[arg-type]
        references.append(weakref.ref(made.samples.inputs))
        most.append(sum(reference() is not None for reference in references))
        return made

    monkeypatch.setattr(Engine, "wave", counted)
    settings = replace(config.synthesis, samples=900, steps=1, formats=("safetensors",))
    made(replace(config, synthesis=settings), tmp_path / "bank")
    assert len(most) == 30
    assert max(most) <= 2


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Passes of more than ten samples fail from the third wave on; the list has the rows of all passes."""
    rows: list[int] = []
    waves = [0]
    step = PlainStep.__call__

    def counted(engine: Engine, sets: range) -> None:
        waves[0] = sets.start

    def limited(own: PlainStep, walk: Walk) -> None:
        rows.append(own.rows_per_pass)
        if waves[0] >= 2 and own.rows_per_pass > 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        step(own, walk)

    with monkeypatch.context() as patch:
        before_each_wave(patch, counted)
        patch.setattr(PlainStep, "__call__", limited)
        yield rows


def test_rows_are_halved_said_and_recorded(config: Config, tmp_path: Path, short_of_memory: list[int]) -> None:
    heard = Heard()
    bank = made(config, tmp_path / "bank", reporter=heard)
    assert [shard["rows_per_pass"] for shard in bank.manifest["shards"]] == [30, 30, 6, 6, 6]
    assert bank.arithmetic["rows_per_pass"] == 30
    assert [text.split(": ")[1] for text in heard.warnings] == ["going on with 15", "going on with 6"]
    assert bank.is_complete


def test_the_first_rank_tells_of_the_memory_of_others(
    config: Config, tmp_path: Path, short_of_memory: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    monkeypatch.setattr("tests.test_synthesizing.SILENT", heard)
    ended = on_ranks(2, config, tmp_path / "bank")
    assert isinstance(ended[0], SampleBank)
    assert heard.warnings[-1].startswith("memory ran out on a rank: some shards were made with 6 samples")


def test_it_goes_on_with_the_rows_that_fitted(
    config: Config, tmp_path: Path, short_of_memory: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(config, tmp_path / "whole")
    stop_after(3, config, tmp_path / "bank", monkeypatch)
    short_of_memory.clear()
    made(config, tmp_path / "bank")
    assert set(short_of_memory) == {6}, "it did not try more again"
    assert snapshot(tmp_path / "bank") == snapshot(tmp_path / "whole")


# --- disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["save_file", "write_entry", "write_manifest"])
def test_a_full_disk_keeps_what_is_finished(
    config: Config, tmp_path: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    whole, calls = getattr(bank_module, target), [0]

    def full(*arguments: object, **keywords: object) -> object:
        calls[0] += 1
        if calls[0] == (2 if target == "write_manifest" else 4):
            raise (
                OSError(28, "No space left on device")
                if target == "save_file"
                else EnvironmentFault("no space left on the disk of bank", "free some")
            )
        return whole(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(bank_module, target, full)
        with pytest.raises(EnvironmentFault, match="no space left"):
            made(config, tmp_path / "bank")
    stopped = SampleBank.open(tmp_path / "bank")
    assert not stopped.is_complete
    assert stopped.finished_waves == (5 if target == "write_manifest" else 3)
    assert len(stopped.samples()) == 30 * stopped.finished_waves
    made(config, tmp_path / "bank")
    assert snapshot(tmp_path / "bank") == undisturbed


def test_a_loss_that_is_not_finite_leaves_no_half_wave(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strike(engine: Engine, sets: range) -> None:
        if sets.start == 3:
            raise RunError("the synthesis objective is not finite at step 2 (step size 1e-01)", "a smaller step")

    before_each_wave(monkeypatch, strike)
    with pytest.raises(RunError, match="not finite at step 2"):
        made(config, tmp_path / "bank")
    assert [shard["sets"][0] for shard in SampleBank.open(tmp_path / "bank").manifest["shards"]] == [0, 1, 2]
    assert sorted(file.name for file in (tmp_path / "bank").iterdir()) == [
        "journal-00000.jsonl", "manifest.json", "shard-00000.safetensors", "shard-00001.safetensors",
        "shard-00002.safetensors",
    ]  # fmt: skip


# --- time ---------------------------------------------------------------------------------------------------------


def hurried(config: Config, patch: pytest.MonkeyPatch, samples: int) -> Config:
    """With a budget that is spent once more than so many samples are on their way."""
    patch.setattr("cake_cli.synthesis.course.LOOK_SECONDS", 0.0)
    patch.setattr(Course, "is_over_time", property(lambda course: course._mine > samples))
    return replace(config, synthesis=replace(config.synthesis, time_budget="1h"))


def test_when_time_is_up_the_bank_is_complete(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = hurried(config, monkeypatch, 75)
    bank = made(config, tmp_path / "bank")
    assert (bank.is_complete, bank.finished_waves, bank.missing_waves()) == (True, 2, [])
    assert bank.manifest["time_budget"]["reached"]
    assert 0 < bank.seconds_spent < 60
    assert (tmp_path / "bank" / "samples.npz").exists()
    assert len(SampleBank.open(tmp_path / "bank").samples()) == 60
    before = snapshot(tmp_path / "bank")
    made(config, tmp_path / "bank")
    assert snapshot(tmp_path / "bank") == before, "there is nothing to go on with"


def test_step_sizes_are_spread_when_any_beginning_may_be_the_whole(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = made(hurried(config, monkeypatch, 1000), tmp_path / "bank")
    sizes = [shard["step_sizes"][0] for shard in bank.manifest["shards"]]
    assert bank.plan.spread
    assert sizes != sorted(sizes, reverse=True)
    assert not bank.manifest["time_budget"]["reached"]
    plain = made(replace(config, synthesis=replace(config.synthesis, time_budget=None)), tmp_path / "plain")
    assert sorted(sizes) == sorted(shard["step_sizes"][0] for shard in plain.manifest["shards"])


def test_time_that_was_spent_counts_on_resume(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(config, synthesis=replace(config.synthesis, time_budget="1h"))
    stop_after(2, config, tmp_path / "bank", monkeypatch)
    journal = tmp_path / "bank" / "journal-00000.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert 0 < lines[0]["spent"] <= lines[1]["spent"]
    lines[1]["spent"] = 3600.5
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    bank = made(config, tmp_path / "bank")
    assert (bank.finished_waves, bank.is_complete, bank.manifest["time_budget"]["reached"]) == (2, True, True)


def test_no_time_at_all_is_no_bank(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(RunError, match="not one set was finished"):
        made(hurried(config, patch, 3), tmp_path / "bank")
    assert not SampleBank.open(tmp_path / "bank").is_complete
