"""A bank or a run that is damaged, of another teacher or another version: its sentence, and nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.conftest import TRAINING, digest, record, refusal, snapshot
from tests.conftest import Outcome, save_mlp

Cake = Callable[..., Outcome]


def test_a_bank_of_another_teacher(cake: Cake, bank: Path, tmp_path: Path):
    other = save_mlp(tmp_path / "other.onnx", seed=1)
    before = snapshot(tmp_path)
    said = refusal(cake("distill", other, *TRAINING, "--student", "mlp:8", "--bank", bank, "-o", "out"), 4)
    assert "made from teacher.onnx, not from this other.onnx" in said
    assert snapshot(tmp_path) == before


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def change_manifest(bank: Path, **fields: object) -> None:
    manifest = json.loads((bank / "manifest.json").read_text())
    (bank / "manifest.json").write_text(json.dumps(manifest | fields))


SHARD = "shard-00001.safetensors"


def rewrite_shard(bank: Path, **tensors: torch.Tensor) -> None:
    """Other tensors in a shard, which the manifest takes for its own."""
    save_file(load_file(bank / SHARD) | tensors, bank / SHARD)
    shards = json.loads((bank / "manifest.json").read_text())["shards"]
    shards[1] |= {"bytes": (bank / SHARD).stat().st_size, "sha256": digest(bank / SHARD)}
    change_manifest(bank, shards=shards)


BANKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit turned over": (lambda bank: flip_a_bit(bank / SHARD), "hash"),
    "a shard cut short": (lambda bank: (bank / SHARD).write_bytes(b"x"), "has 1 bytes"),
    "a class too many": (
        lambda bank: rewrite_shard(bank, logits=torch.zeros(30, 4)),
        "its logits are 30x4, the manifest says 30x3",
    ),
    "another shape": (
        lambda bank: rewrite_shard(bank, inputs=torch.zeros(30, 1, 5, 5)),
        "its inputs are 30x1x5x5, the manifest says 30x1x4x4",
    ),
    "values that are not finite": (
        lambda bank: rewrite_shard(bank, logits=torch.full((30, 3), float("nan"))),
        "are not finite",
    ),
    "a shard lost": (lambda bank: (bank / SHARD).unlink(), f"lost its shard {SHARD}"),
    "a newer schema": (lambda bank: change_manifest(bank, schema_version=2), "version 2 of the bank format"),
    "another format": (lambda bank: change_manifest(bank, format="cookie-bank"), "damaged"),
    "no classes": (lambda bank: change_manifest(bank, classes=None), "damaged"),
    "a path as shard": (
        lambda bank: change_manifest(bank, shards=[{"file": "../../secret.safetensors"}]),
        "shard name '../../secret.safetensors'",
    ),
    "manifest cut short": (lambda bank: (bank / "manifest.json").write_text('{"format": "ca'), "damaged"),
}


@pytest.mark.parametrize("kind", BANKS)
def test_a_damaged_bank(cake: Cake, bank: Path, kind: str):
    damage, word = BANKS[kind]
    damage(bank)
    before = snapshot(bank)
    outcome = cake("train", bank, *TRAINING, "--student", "mlp:8", "--no-report", "-o", "out")
    assert word in refusal(outcome, 4)
    assert snapshot(bank) == before
    assert not Path("out/student.safetensors").exists()
    if Path("out").exists():
        assert record(Path("out"))["status"] == "failed"


def test_a_run_of_a_newer_cake(cake: Cake, distilled: Path):
    (distilled / "run.json").write_text(json.dumps(record(distilled) | {"schema_version": 2}))
    before = snapshot(distilled)
    for command in ("resume", "inspect", "report"):
        assert "version 2 of the run format" in refusal(cake(command, distilled), 4)
    assert snapshot(distilled) == before
