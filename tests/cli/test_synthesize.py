"""`cake synthesize`: the sample bank alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cake_cli.storage import sha256
from cake_cli.synthesis.bank import SampleBank
from tests.cli.conftest import SYNTHESIS, digest, snapshot
from tests.conftest import Outcome

Cake = Callable[..., Outcome]


def test_a_bank_and_a_picture(cake: Cake, mlp_file: Path):
    outcome = cake("synthesize", mlp_file, *SYNTHESIS, "-o", "bank")
    assert (outcome.code, outcome.out) == (0, "bank\n")
    assert {entry.name for entry in Path("bank").iterdir()} == {
        "manifest.json", "config.toml", "samples.png", "shard-00000.safetensors", "shard-00001.safetensors",
    }  # fmt: skip
    assert "cake train bank --student" in outcome.err
    bank = SampleBank.open(Path("bank"))
    assert bank.is_complete
    assert bank.samples().inputs.shape == (60, 1, 4, 4)


def test_without_out_it_goes_below_runs(cake: Cake, mlp_file: Path):
    assert cake("synthesize", mlp_file, *SYNTHESIS).out == "runs/teacher-to-bank-001\n"


def test_json(cake: Cake, mlp_file: Path):
    found = json.loads(cake("synthesize", mlp_file, *SYNTHESIS, "-o", "bank", "--json").out)
    assert (found["bank"], found["samples"], found["classes"]) == ("bank", 60, 3)
    assert found["teacher_passes"] == {"forward": 180, "backward": 120}
    assert sum(found["health"]["histogram"]) == 60


def test_a_dry_run_writes_nothing(cake: Cake, mlp_file: Path, tmp_path: Path):
    before = snapshot(tmp_path)
    found = json.loads(cake("synthesize", mlp_file, *SYNTHESIS, "-o", "bank", "--dry-run", "--json").out)
    assert (found["student"], found["samples"], found["sets"]) == (None, 60, 2)
    assert snapshot(tmp_path) == before


def test_the_bank_is_the_one_that_distill_makes(cake: Cake, mlp_file: Path, bank: Path, distilled: Path):
    for index in range(2):
        name = f"shard-0000{index}.safetensors"
        assert digest(bank / name) == digest(distilled / "bank" / name)


def test_the_seed_changes_the_samples(cake: Cake, mlp_file: Path, bank: Path):
    assert cake("synthesize", mlp_file, *SYNTHESIS, "-o", "other", "--seed", "1").code == 0
    assert digest(bank / "shard-00000.safetensors") != digest(Path("other/shard-00000.safetensors"))


def test_the_manifest_names_teacher_and_shards(mlp_file: Path, bank: Path):
    manifest = json.loads((bank / "manifest.json").read_text())
    assert manifest["teacher"] == {"name": "teacher.onnx", "sha256": sha256(mlp_file)}
    assert [shard["sha256"] for shard in manifest["shards"]] == [
        digest(bank / shard["file"]) for shard in manifest["shards"]
    ]


def test_the_choices_are_in_the_plan_and_the_health_at_the_end(cake: Cake, mlp_file: Path):
    said = cake("synthesize", mlp_file, *SYNTHESIS, "--contrastive", "snn", "--noise", "both", "--set",
                "optimizer=adam", "-o", "bank", "--progress", "log").err  # fmt: skip
    assert "60 samples x 2 steps (cake snn, implicit and Langevin noise, Adam)" in said
    for figure in ("on target", "balance", "confidence", "entropy", "saturated 0.0%", "dead 0.0%", "by class: 0 "):
        assert figure in said
    inspected = cake("inspect", "bank").out + cake("inspect", "bank").err
    assert "saturated 0.0%, dead 0.0%" in inspected


def test_a_generator_stays_with_its_bank(cake: Cake, mlp_file: Path):
    outcome = cake("synthesize", mlp_file, *SYNTHESIS, "--method", "generative", "-o", "bank", "--progress", "log")
    assert outcome.code == 0
    assert "60 samples x 2 updates of a generator (generative)" in outcome.err
    assert Path("bank/generator.safetensors").exists()
    assert cake("train", "bank", "--student", "mlp:8", "--epochs", "1", "--no-report").code == 0


def test_print_config_needs_no_teacher(cake: Cake):
    outcome = cake("synthesize", "--recipe", "paper-toy", "--print-config")
    assert outcome.code == 0
    assert "cls_weight = 0.0002" in outcome.out
