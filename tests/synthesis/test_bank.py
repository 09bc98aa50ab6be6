from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cake_cli.errors import DataError, EnvironmentFault
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.storage import sha256
from cake_cli.synthesis.bank import SampleBank
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

    monkeypatch.setattr("cake_cli.synthesis.bank.save_file", full)
    with pytest.raises(EnvironmentFault, match="no space left"):
        made.add(second)
    assert len(SampleBank.open(made.path)) == 24
    assert sorted(file.name for file in made.path.iterdir()) == [
        "journal-00000.jsonl",
        "manifest.json",
        "shard-00000.safetensors",
    ]


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
