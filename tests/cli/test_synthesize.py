"""`cake synthesize`: the sample bank alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cake_cli import estimating
from cake_cli.locks import held
from cake_cli.storage import sha256
from cake_cli.synthesis.bank import SampleBank
from tests.cli.conftest import SYNTHESIS, TINY, digest, refusal, snapshot
from tests.conftest import Outcome, save_mlp

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


def test_a_bank_that_is_moved_aside_has_no_say_in_the_next(cake: Cake, mlp_file: Path, bank: Path, distilled: Path):
    other = ["--samples", "90", "--steps", "2", "--set", "set_size=15"]
    assert cake("synthesize", mlp_file, *other, "-o", bank, "--force", "--dry-run").code == 0
    assert cake("synthesize", mlp_file, *other, "-o", bank, "--force").code == 0
    plan = json.loads((bank / "manifest.json").read_text())["plan"]
    assert (plan["sets"], plan["rows"] * plan["groups"]) == (6, 15)
    again = cake("distill", mlp_file, *TINY, "--samples", "90", "--rounds", "3", "-o", distilled, "--force")
    assert again.code == 0
    plan = json.loads((distilled / "bank/manifest.json").read_text())["plan"]
    assert (plan["sets"], plan["rounds"]) == (3, 3)


def test_print_config_needs_no_teacher(cake: Cake):
    outcome = cake("synthesize", "--recipe", "paper-toy", "--print-config")
    assert outcome.code == 0
    assert "cls_weight = 0.0002" in outcome.out


# --- copies and time ----------------------------------------------------------------------------------------------


def test_copies_for_other_tools(cake: Cake, mlp_file: Path, bank: Path):
    found = json.loads(
        cake("synthesize", mlp_file, *SYNTHESIS, "-o", "other", "--format", "npz", "--format", "png", "--json").out
    )
    assert found["copies"] == ["other/samples.npz", "other/images"]
    assert len(list(Path("other/images").rglob("*.png"))) == 60
    assert digest(bank / "shard-00000.safetensors") == digest(Path("other/shard-00000.safetensors"))
    student = cake("train", "other", "--student", "linear", "--epochs", "1", "--no-report", "-o", "run", "-q")
    assert student.code == 0, student.err
    for data in ("other/samples.npz", "other/images"):
        measured = cake("evaluate", "run", "--data", data, "--against", mlp_file, "--json")
        assert measured.code == 0, measured.err
        assert json.loads(measured.out)["samples"] == 60


def test_an_archive_is_labelled_by_the_teacher(cake: Cake, mlp_file: Path):
    assert cake("synthesize", mlp_file, *SYNTHESIS, "-o", "other", "--format", "npz").code == 0
    measured = json.loads(cake("evaluate", mlp_file, "--data", "other/samples.npz", "--json").out)
    assert measured["accuracy"] == 1.0, "read back as held-out data, the teacher is always right"


def test_a_copy_of_a_bank_that_is_there(cake: Cake, bank: Path):
    before = snapshot(bank)
    outcome = cake("resume", bank, "--format", "npz", "-q")
    assert (outcome.code, outcome.out) == (0, "bank\n"), outcome.err
    after = snapshot(bank)
    assert after.pop("samples.npz")
    assert after == before


def test_pictures_of_vectors_are_refused_before_the_work(cake: Cake, tmp_path: Path):
    save_mlp(tmp_path / "vectors.onnx", shape=(7,))
    outcome = cake("synthesize", "vectors.onnx", *SYNTHESIS, "-o", "bank", "--format", "png")
    assert "png holds images of 1 or 3 channels, not vectors of 7 values" in refusal(outcome, 2)
    assert not Path("bank").exists()


def test_an_unknown_format(cake: Cake, mlp_file: Path):
    outcome = cake("synthesize", mlp_file, "-o", "bank", "--format", "jpeg")
    assert "synthesis.formats must be one of safetensors, npz, png, not ['jpeg']" in refusal(outcome, 2)


def test_a_time_budget_chooses_the_number_of_sets(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimating, "_synthesis_seconds", lambda prepared, teacher: 0.5 * prepared.plan.sets)
    arguments = ["synthesize", mlp_file, "--set", "set_size=30", "--steps", "2", "-o", "bank", "--dry-run", "--json"]
    found = json.loads(cake(*arguments, "--time-budget", "1m40s").out)
    assert (found["sets"], found["samples"], found["seconds"]["synthesis"]) == (180, 5400, 90.0)
    fewer = json.loads(cake(*arguments, "--time-budget", "1m40s", "--samples", "600").out)
    assert fewer["samples"] == 600
    assert json.loads(cake(*arguments, "--samples", "600").out)["samples"] == 600


def test_a_budget_that_holds_no_set(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimating, "_synthesis_seconds", lambda prepared, teacher: 70.0 * prepared.plan.sets)
    outcome = cake("synthesize", mlp_file, "--time-budget", "1m", "-o", "bank")
    assert "one set of 99 samples takes 70 s here, and the time budget is 60 s" in refusal(outcome, 2)


def test_a_bank_within_a_budget(cake: Cake, mlp_file: Path):
    outcome = cake("synthesize", mlp_file, "--steps", "2", "--samples", "300", "--time-budget", "5m", "-o", "bank")
    assert outcome.code == 0, outcome.err
    bank = SampleBank.open(Path("bank"))
    assert bank.plan.spread
    assert (bank.budget, bank.manifest["time_budget"]["reached"]) == (300.0, False)
    assert 0 < bank.seconds_spent < 300
    assert "time" in cake("inspect", "bank").out
    assert cake("resume", "bank").code == 0


def test_a_bank_that_is_in_use(cake: Cake, bank: Path):
    with held(bank):
        assert "bank is in use by process" in refusal(cake("resume", bank), 4)
    assert cake("resume", bank).code == 0
