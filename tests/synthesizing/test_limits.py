"""The making of a bank short of memory, disk and time."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cake_cli.config import Config
from cake_cli.errors import EnvironmentFault, RunError
from cake_cli.synthesis import bank as bank_module
from cake_cli.synthesis import shards
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.course import Course
from cake_cli.synthesis.engine import Engine, Wave
from cake_cli.synthesis.step import PlainStep, Walk
from tests.cli.conftest import snapshot
from tests.synthesizing.conftest import Heard, before_each_wave, made, on_ranks, stop_after

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
    monkeypatch.setattr("tests.synthesizing.conftest.SILENT", heard)
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
    module = shards if target == "save_file" else bank_module
    whole, calls = getattr(module, target), [0]

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
        patch.setattr(module, target, full)
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
