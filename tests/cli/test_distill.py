"""`cake distill`: one command from a model file to a run directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cake_cli import planning
from cake_cli.config import Config
from cake_cli.models.loading import load_classifier
from cake_cli.settings import resolve
from cake_cli.storage import sha256
from tests.cli.conftest import SYNTHESIS, TINY, TRAINING, digest, record, snapshot, weights
from tests.conftest import Outcome, save_mlp

Cake = Callable[..., Outcome]


def test_nothing_but_teacher_and_student_need_be_said(cake: Cake, mlp_file: Path):
    """Only made small here: the output's place, the input and the number of classes come by themselves."""
    outcome = cake("distill", mlp_file.name, "--student", "mlp:8", *SYNTHESIS, *TRAINING)
    run = Path("runs/teacher-to-mlp-8-001")
    assert outcome.code == 0
    assert outcome.out == f"{run}/student.safetensors\n"
    assert {entry.name for entry in run.iterdir()} == {
        "config.toml", "run.json", "metrics.jsonl", "log.txt", "bank", "student.safetensors",
        "report.html", "samples.png", "curves.png",
    }  # fmt: skip
    assert "1x4x4 -> 3 logits" in outcome.err
    assert "cake evaluate" in outcome.err
    assert record(run)["status"] == "complete"
    assert record(run)["data_free"] is True


def test_a_second_run_gets_a_second_folder(cake: Cake, mlp_file: Path):
    for _ in range(2):
        assert cake("distill", mlp_file, *TINY).code == 0
    assert sorted(entry.name for entry in Path("runs").iterdir()) == ["teacher-to-mlp-8-001", "teacher-to-mlp-8-002"]


def test_the_student_needs_nothing_but_its_file(distilled: Path):
    student = load_classifier(distilled / "student.safetensors")
    assert (student.architecture, student.classes, student.spec.shape) == ("mlp:8", 3, (1, 4, 4))


def test_the_same_seed_gives_the_same_student(cake: Cake, mlp_file: Path, made: Path):
    for seed in (0, 1):
        assert cake("distill", mlp_file, *TINY, "--seed", seed, "-o", seed).code == 0
    assert weights(Path("0")) == weights(made / "run")
    assert weights(Path("1")) != weights(made / "run")


def test_json_has_the_promised_keys(cake: Cake, mlp_file: Path, heldout: Path):
    outcome = cake("distill", mlp_file, *TINY, "--data", heldout, "-o", "run", "--json")
    found = json.loads(outcome.out)
    assert (found["run"], found["student"], found["samples"]) == ("run", "run/student.safetensors", 60)
    assert found["teacher_passes"] == {"forward": 180, "backward": 120}
    assert set(found["seconds"]) == {"load", "synthesis", "training", "baseline", "evaluation"}
    evaluation = found["evaluation"]
    assert set(evaluation["accuracy"]) == {"teacher", "student", "noise_baseline"}
    assert all(0 <= value <= 1 for value in evaluation["accuracy"].values())
    assert 0 <= evaluation["agreement"] <= 1
    assert evaluation["samples"] == 40
    assert (found["status"], found["report"], found["seed"]) == ("complete", None, 0)


def test_json_without_data_has_no_evaluation(cake: Cake, mlp_file: Path):
    found = json.loads(cake("distill", mlp_file, *TINY, "--json").out)
    assert found["evaluation"] is None
    assert 0 <= found["synthetic_fidelity"] <= 1 if found["synthetic_fidelity"] is not None else True


def test_without_baseline_there_is_none(cake: Cake, mlp_file: Path, heldout: Path):
    outcome = cake("distill", mlp_file, *TINY, "--data", heldout, "--no-baseline", "-o", "run", "--json")
    assert json.loads(outcome.out)["evaluation"]["accuracy"]["noise_baseline"] is None
    assert not Path("run/noise_baseline.safetensors").exists()


def test_data_changes_no_weight_of_the_student(made: Path):
    assert weights(made / "measured") == weights(made / "run")


def test_the_table_shows_teacher_student_and_noise(cake: Cake, mlp_file: Path, heldout: Path):
    outcome = cake("distill", mlp_file, *TINY, "--data", heldout, "-o", "run")
    for line in ("teacher ", "student ", "student of noise"):
        assert any(shown.startswith(line) for shown in outcome.err.splitlines())


def test_the_gate_of_min_agreement(cake: Cake, mlp_file: Path, heldout: Path):
    arguments = ["distill", mlp_file, *TINY, "--data", heldout, "--no-baseline", "--json"]
    assert cake(*arguments, "-o", "low", "--min-agreement", "0").code == 0
    high = cake(*arguments, "-o", "high", "--min-agreement", "1")
    assert high.code == 7
    assert "student and teacher agree on" in high.err
    assert json.loads(high.out)["student"] == "high/student.safetensors", "what was made is there, and said"
    assert record(Path("high"))["status"] == "complete"


@pytest.mark.parametrize("method", ["cake", "naive", "generative", "noise", "smooth-noise"])
def test_every_method_runs(cake: Cake, mlp_file: Path, method: str):
    outcome = cake("distill", mlp_file, *TINY, "--method", method, "--json")
    found, steps = json.loads(outcome.out), 0 if "noise" in method else 2
    assert (outcome.code, found["samples"]) == (0, 60)
    assert found["teacher_passes"] == {"forward": 60 * (steps + 1), "backward": 60 * steps}
    assert found["outside_contract"] == []


def test_langevin_gives_other_samples(cake: Cake, mlp_file: Path, made: Path):
    assert cake("distill", mlp_file, *TINY, "-o", "noisy", "--noise", "both").code == 0
    assert digest(Path(made / "run/bank/shard-00000.safetensors")) != digest(Path("noisy/bank/shard-00000.safetensors"))


def test_an_existing_bank_is_used_and_not_copied(cake: Cake, mlp_file: Path, bank: Path):
    before = snapshot(bank)
    found = json.loads(cake("distill", mlp_file, *TRAINING, "--student", "mlp:8", "--bank", bank, "--json").out)
    assert found["samples"] == 60
    assert not (Path(found["run"]) / "bank").exists()
    assert snapshot(bank) == before


def test_a_run_can_be_moved_aside(cake: Cake, mlp_file: Path, distilled: Path):
    before = snapshot(distilled)
    assert cake("distill", mlp_file, *TINY, "-o", distilled, "--seed", "1", "--force").code == 0
    assert snapshot(Path("run.old-1")) == before
    assert record(distilled)["seed"] == 1


def test_report_again(cake: Cake, distilled: Path):
    outcome = cake("report", distilled)
    assert outcome.code == 0
    page = Path(outcome.out.strip())
    assert page == distilled / "report.html"
    assert "<html" in page.read_text(encoding="utf-8")


# --- planning only ------------------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(cake: Cake, mlp_file: Path, tmp_path: Path):
    before = snapshot(tmp_path)
    outcome = cake("distill", mlp_file, *TINY, "--dry-run")
    assert (outcome.code, outcome.out) == (0, "")
    beside = "420 starting points labelled beside, 1 point on the way of each, "
    assert f"60 samples x 2 steps (cake), {beside}2 epochs" in outcome.err
    assert beside not in cake("distill", mlp_file, *TINY, "--rounds", "1", "--dry-run").err
    assert snapshot(tmp_path) == before
    assert not Path("runs").exists()


def test_a_dry_run_says_what_the_run_will_then_cost(cake: Cake, mlp_file: Path):
    planned = json.loads(cake("distill", mlp_file, *TINY, "--dry-run", "--json").out)
    found = json.loads(cake("distill", mlp_file, *TINY, "--json").out)
    assert planned["dry_run"] is True
    assert (planned["teacher"], planned["student"], planned["out"]) == ("teacher.onnx", "mlp:8", found["run"])
    assert planned["samples"] == found["samples"]
    assert planned["teacher_passes"] == found["teacher_passes"]
    assert set(planned["seconds"]) == {"synthesis", "training"}
    written = sum(file.stat().st_size for file in Path(found["run"]).rglob("*") if file.is_file())
    assert 0 < written <= planned["disk_bytes"]


# --- configuration ------------------------------------------------------------------------------------------------


def test_print_config_round_trips(cake: Cake, mlp_file: Path):
    flags = ["--input-shape", "1,4,4", "--mean", "0.5", "--std", "1e-1", "--recipe", "paper-mnist", "--lr", "1e-3",
             "--set", "synthesis.schedule=cosine", "--noise", "both", "--seed", "5", "--data", "a b.npz"]  # fmt: skip
    printed = cake("distill", mlp_file, "--student", "mlp:8", *flags, "--print-config")
    assert (printed.code, printed.err) == (0, "")
    file = Path("own.toml")
    file.write_text(printed.out, encoding="utf-8")
    config = resolve(file=file)
    assert config != Config()
    assert (config.teacher.input_shape, config.teacher.std, config.training.lr) == ((1, 4, 4), (0.1,), 1e-3)
    assert (config.synthesis.tv_weight, config.synthesis.schedule, config.seed) == (2e4, "cosine", 5)
    assert config.evaluation.data == "a b.npz"
    assert cake("distill", "--config", file, "--print-config").out == printed.out


def test_precedence(cake: Cake, mlp_file: Path):
    Path("own.toml").write_text("[synthesis]\nsteps = 3\nset_size = 20\ngroups = 2\n[training]\nepochs = 4\n")
    arguments = ["distill", mlp_file, "--recipe", "paper", "--config", "own.toml", "--set", "epochs=5", "--set",
                 "seed=6", "--seed", "7", "--print-config"]  # fmt: skip
    Path("found.toml").write_text(cake(*arguments).out)
    found = resolve(file=Path("found.toml"))
    assert (found.synthesis.samples, found.synthesis.steps, found.training.epochs, found.seed) == (25_600, 3, 5, 7)


def test_a_run_can_be_run_again_from_its_own_config(cake: Cake, distilled: Path, tmp_path: Path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    outcome = cake("distill", "--config", tmp_path / distilled / "config.toml", "-o", "again", "-q")
    assert outcome.code == 0, outcome.err
    assert weights(Path("again")) == weights(tmp_path / distilled)


def test_what_the_flags_say_of_the_input_reaches_the_student(cake: Cake, mlp_file: Path):
    outcome = cake("distill", mlp_file, *TINY, "--mean", "0.25", "--std", "0.5", "-o", "run")
    assert outcome.code == 0
    spec = load_classifier(Path("run")).spec
    assert (spec.mean, spec.std, spec.expects) == ((0.25,), (0.5,), "normalised")


def test_the_run_says_which_teacher_it_was(made: Path):
    teacher = record(made / "run")["teacher"]
    assert teacher["sha256"] == sha256(made / "teacher.onnx")
    assert teacher["path"] == str(made / "teacher.onnx")
    assert teacher["name"] == "teacher.onnx"


def test_a_teacher_without_batch_axis_name_or_image(cake: Cake, tmp_path: Path):
    vector = save_mlp(tmp_path / "vector.onnx", shape=(6,), classes=4)
    found = json.loads(cake("distill", vector, *SYNTHESIS, *TRAINING, "--set", "set_size=32", "--student", "linear",
                            "--no-report", "--json").out)  # fmt: skip
    assert record(Path(found["run"]))["teacher"]["input"]["shape"] == [6]


def test_a_student_can_teach(cake: Cake, distilled: Path):
    outcome = cake("distill", distilled, *TINY, "--method", "noise", "-o", "grandchild", "-q")
    assert outcome.code == 0, outcome.err
    assert record(Path("grandchild"))["teacher"]["sha256"] == sha256(distilled / "student.safetensors")


@pytest.mark.parametrize("command", [["distill", *TINY], ["synthesize", *SYNTHESIS]], ids=lambda line: line[0])
def test_an_interrupt_while_the_teacher_opens(
    cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(planning, "prepare", interrupted)
    outcome = cake(command[0], mlp_file, *command[1:], "-o", "out")
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == "error: interrupted before anything was done\ntry:   the same command\n"
    assert not Path("out").exists()
