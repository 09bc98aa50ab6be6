from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import load_file

from cake_cli.errors import DataError, EnvironmentFault
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.storage import sha256
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.engine import Wave
from cake_cli.synthesis.manifest import write_manifest
from tests.synthesis.test_engine import joined, make_engine, waves


@pytest.fixture
def bank(tmp_path: Path, toy_teacher: Classifier, cpu: Hardware) -> SampleBank:
    engine = make_engine(toy_teacher, cpu)
    made = SampleBank.create(tmp_path / "bank", toy_teacher, engine.plan, seed=0, settings={"method": "cake"})
    for wave in waves(engine):
        made.add(wave)
    return made


def rewrite(bank: SampleBank, **changes: object) -> None:
    (bank.path / "manifest.json").write_text(json.dumps(bank.manifest | changes))


def test_what_is_stored_is_read_back(bank: SampleBank, toy_teacher: Classifier, cpu: Hardware) -> None:
    again = SampleBank.open(bank.path)
    made = joined(make_engine(toy_teacher, cpu))
    read = again.samples()
    for name in ("inputs", "logits", "targets", "step_sizes"):
        assert torch.equal(getattr(read, name), getattr(made, name)), name
    assert (len(again), again.classes, again.spec) == (48, 4, toy_teacher.spec)
    assert again.is_complete


def test_the_format_is_what_the_readme_says(bank: SampleBank) -> None:
    assert sorted(file.name for file in bank.path.iterdir()) == [
        "manifest.json",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    tensors = load_file(bank.path / "shard-00000.safetensors")
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()} == {
        "inputs": (torch.float32, (24, 1, 4, 4)),
        "logits": (torch.float32, (24, 4)),
        "targets": (torch.int32, (24,)),
    }
    manifest = json.loads((bank.path / "manifest.json").read_text())
    shard = manifest["shards"][1]
    assert (manifest["format"], manifest["schema_version"], manifest["status"]) == ("cake-bank", 1, "complete")
    assert (shard["sets"], shard["round"], shard["samples"], len(shard["step_sizes"])) == ([3, 6], 1, 24, 3)
    assert shard["sha256"] == sha256(bank.path / shard["file"])
    assert manifest["teacher_passes"] == {"forward": 48 * 13, "backward": 48 * 12}


def test_a_bank_grows_shard_by_shard(tmp_path: Path, toy_teacher: Classifier, cpu: Hardware) -> None:
    engine = make_engine(toy_teacher, cpu)
    made = SampleBank.create(tmp_path / "bank", toy_teacher, engine.plan, seed=0, settings={})
    assert (len(made), made.health, made.finished_waves) == (0, None, 0)
    made.add(waves(engine)[0])
    half = SampleBank.open(made.path)
    assert (len(half), half.is_complete, half.finished_waves) == (24, False, 1)


def test_a_failed_write_leaves_the_bank_as_it_was(
    tmp_path: Path, toy_teacher: Classifier, cpu: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(toy_teacher, cpu)
    made = SampleBank.create(tmp_path / "bank", toy_teacher, engine.plan, seed=0, settings={})
    first, second = waves(engine)
    made.add(first)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cake_cli.synthesis.shards.save_file", full)
    with pytest.raises(EnvironmentFault, match="no space left"):
        made.add(second)
    assert len(SampleBank.open(made.path)) == 24
    assert sorted(file.name for file in made.path.iterdir()) == [
        "journal-00000.jsonl",
        "manifest.json",
        "shard-00000.safetensors",
    ]


# --- while it grows -----------------------------------------------------------------------------------------------


def halves(path: Path, teacher: Classifier, cpu: Hardware) -> tuple[SampleBank, Wave, Wave]:
    """A bank that was just begun, and the two waves that it lacks."""
    engine = make_engine(teacher, cpu)
    made = SampleBank.create(path, teacher, engine.plan, seed=0, settings={})
    first, second = waves(engine)
    return made, first, second


def test_a_growing_bank_is_manifest_and_journals(tmp_path: Path, toy_teacher: Classifier, cpu: Hardware) -> None:
    made, first, _ = halves(tmp_path / "bank", toy_teacher, cpu)
    made.add(first)
    assert json.loads((made.path / "manifest.json").read_text())["shards"] == []
    assert len((made.path / "journal-00000.jsonl").read_text().splitlines()) == 1
    again = SampleBank.open(made.path)
    assert (again.finished_waves, again.missing_waves(), again.is_complete) == (1, [1], False)
    again.fold()
    assert not list(made.path.glob("journal-*"))
    assert SampleBank.open(made.path).missing_waves() == [1]


def test_a_manifest_is_not_written_for_each_shard(
    tmp_path: Path, toy_teacher: Classifier, cpu: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the work would grow with the square of the bank."""
    engine = make_engine(toy_teacher, cpu, steps=0)
    engine = replace(engine, plan=replace(engine.plan, at_once=1))
    written = []
    monkeypatch.setattr("cake_cli.synthesis.bank.write_manifest", lambda *_: written.append(1))
    made = SampleBank.create(tmp_path / "bank", toy_teacher, engine.plan, seed=0, settings={})
    write_manifest(made.path, made.manifest)
    for wave in waves(engine):
        made.add(wave)
    assert len(written) == 2


def test_ranks_have_journals_of_their_own_and_one_manifest(
    tmp_path: Path, bank: SampleBank, toy_teacher: Classifier, cpu: Hardware
) -> None:
    made, first, second = halves(tmp_path / "two", toy_teacher, cpu)
    other = SampleBank.open(made.path, rank=1)
    other.add(second)
    assert not other.is_complete
    made.add(first)
    assert not made.is_complete, "what another rank has stored is only known from its journal"
    assert sorted(file.name for file in made.path.glob("journal-*")) == ["journal-00000.jsonl", "journal-00001.jsonl"]
    made.finish()
    manifests = [json.loads((path / "manifest.json").read_text()) for path in (made.path, bank.path)]
    assert manifests[0] | {"synthesis": {}} == manifests[1] | {"synthesis": {}}
    assert SampleBank.open(made.path).samples().inputs.equal(bank.samples().inputs)


def test_a_line_that_was_cut_short_is_passed_over(tmp_path: Path, toy_teacher: Classifier, cpu: Hardware) -> None:
    made, first, second = halves(tmp_path / "bank", toy_teacher, cpu)
    made.add(first)
    SampleBank.open(made.path, rank=1).add(second)
    journal = made.path / "journal-00001.jsonl"
    whole = journal.read_text()
    for cut in range(len(whole) - 1, 0, -97):
        journal.write_text(whole[:cut])
        assert SampleBank.open(made.path).missing_waves() == [1]
    SampleBank.open(made.path).fold()
    again = SampleBank.open(made.path)
    again.clear_leftovers()
    assert not (made.path / "shard-00001.safetensors").exists()
    again.add(second)
    assert SampleBank.open(made.path).is_complete


def test_killed_between_manifest_and_journal_counts_once(
    tmp_path: Path, toy_teacher: Classifier, cpu: Hardware
) -> None:
    made, first, second = halves(tmp_path / "bank", toy_teacher, cpu)
    made.add(first)
    journal = made.path / "journal-00000.jsonl"
    told = journal.read_text()
    made.fold()
    journal.write_text(told)
    assert (len(SampleBank.open(made.path)), SampleBank.open(made.path).finished_waves) == (24, 1)
    made.add(second)
    journal.write_text(told)
    assert (len(SampleBank.open(made.path)), SampleBank.open(made.path).is_complete) == (48, True)


def test_a_damaged_journal_is_refused(tmp_path: Path, toy_teacher: Classifier, cpu: Hardware) -> None:
    made, first, _ = halves(tmp_path / "bank", toy_teacher, cpu)
    made.add(first)
    (made.path / "journal-00000.jsonl").write_text('{"shard": 3}\n')
    with pytest.raises(DataError, match="damaged"):
        SampleBank.open(made.path)


def test_a_reader_sees_no_half_state(tmp_path: Path, toy_teacher: Classifier, cpu: Hardware) -> None:
    """It reads while another thread writes: never less than before, and never a fault."""
    engine = make_engine(toy_teacher, cpu, steps=0)
    engine = replace(engine, plan=replace(engine.plan, sets=60, at_once=1), step_sizes=(0.1,) * 60)
    made = SampleBank.create(tmp_path / "bank", toy_teacher, engine.plan, seed=0, settings={})

    def write() -> None:
        for number, wave in enumerate(waves(engine)):
            made.add(wave)
            if number % 7 == 0:
                made.fold()

    writer = Thread(target=write)
    writer.start()
    seen = [0]
    while writer.is_alive():
        seen.append(SampleBank.open(made.path).finished_waves)
    writer.join()
    assert seen == sorted(seen)
    assert SampleBank.open(made.path).is_complete


def test_a_large_bank_opens_quickly(bank: SampleBank) -> None:
    """Two thousand shards, as of a million samples: one link each stands for the file."""
    shard = bank.manifest["shards"][0]
    shards = []
    for number in range(2000):
        name = f"shard-{number:05d}.safetensors"
        if number > 1:
            os.link(bank.path / shard["file"], bank.path / name)
        shards.append(shard | {"file": name, "sets": [3 * number, 3 * number + 3]})
    plan = bank.manifest["plan"] | {"sets": 6000}
    write_manifest(bank.path, bank.manifest | {"shards": shards, "plan": plan})
    started = time.process_time()
    opened = SampleBank.open(bank.path)
    assert opened.health is not None
    assert len(opened) == 48_000
    assert time.process_time() - started < 2


# --- damage -------------------------------------------------------------------------------------------------------


def test_leftovers_are_cleared(bank: SampleBank) -> None:
    stray = [bank.path / ".partial-1234-shard-00002.safetensors", bank.path / "shard-00007.safetensors"]
    for file in stray:
        file.write_bytes(b"half")
    bank.clear_leftovers()
    assert not any(file.exists() for file in stray)
    assert len(SampleBank.open(bank.path).samples()) == 48


def test_a_flipped_bit_is_found(bank: SampleBank) -> None:
    shard = bank.path / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"shard-00001.*hash"):
        SampleBank.open(bank.path).samples()


def test_a_short_shard_is_found_on_opening(bank: SampleBank) -> None:
    shard = bank.path / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(DataError, match="the manifest says"):
        SampleBank.open(bank.path)


def test_a_lost_shard_is_named(bank: SampleBank) -> None:
    (bank.path / "shard-00000.safetensors").unlink()
    with pytest.raises(DataError, match=r"lost its shard shard-00000"):
        SampleBank.open(bank.path)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "shard-00000.safetensors/../x"])
def test_a_manifest_cannot_climb_out(bank: SampleBank, name: str) -> None:
    shards = [bank.manifest["shards"][0] | {"file": name}]
    rewrite(bank, shards=shards)
    with pytest.raises(DataError, match="damaged"):
        SampleBank.open(bank.path)


def test_a_later_schema_is_refused_by_name(bank: SampleBank) -> None:
    rewrite(bank, schema_version=2)
    with pytest.raises(DataError, match="version 2 of the bank format"):
        SampleBank.open(bank.path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "cake-bank"}', '{"format": 3, "schema_version": 1}'])
def test_a_damaged_manifest_is_refused(bank: SampleBank, text: str) -> None:
    (bank.path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="damaged"):
        SampleBank.open(bank.path)


def test_a_folder_without_manifest_is_no_bank(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a sample bank"):
        SampleBank.open(tmp_path)


def test_health_is_measured(bank: SampleBank) -> None:
    health = bank.health
    assert health is not None
    samples = bank.samples()
    assert health.on_target == pytest.approx(float((samples.logits.argmax(1) == samples.targets).float().mean()))
    assert sum(health.histogram) == health.samples == 48
    assert 0 < health.balance <= 1
