"""The whole way, on a random teacher and tiny budgets: what each stage leaves, and that a stop loses nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cake_cli import pipeline, synthesizing, training
from cake_cli.config import Config, EvaluationConfig
from cake_cli.errors import AgreementMissed, DataError, RunError, UsageError
from cake_cli.events import SILENT
from cake_cli.planning import prepare
from cake_cli.runs import RunDirectory
from cake_cli.storage import sha256
from cake_cli.synthesis import generative
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.course import Course
from cake_cli.synthesis.engine import Engine
from cake_cli.synthesis.generative import GeneratorTraining
from tests.test_planning import small


@pytest.fixture
def config(mlp_file: Path, tmp_path: Path) -> Config:
    draw = np.random.default_rng(0)
    data = tmp_path / "heldout.npz"
    np.savez(data, x=draw.integers(0, 256, (40, 4, 4), dtype=np.uint8), y=draw.integers(0, 3, 40))
    evaluation = EvaluationConfig(data=str(data))
    config = small(mlp_file)
    return replace(config, evaluation=evaluation, synthesis=replace(config.synthesis, samples=120, sets_at_once=1))


def start(config: Config, path: Path) -> RunDirectory:
    return RunDirectory.create(path, config, command="distill", force=False)


def distilled(config: Config, path: Path) -> RunDirectory:
    run = start(config, path)
    pipeline.distill(prepare(config, student=True), run, SILENT)
    return run


def hashes(run: RunDirectory) -> dict[str, str]:
    shards = {file.name: sha256(file) for file in sorted(run.bank_path.glob("*.safetensors"))}
    return shards | {"student": sha256(run.student_path), "baseline": sha256(run.baseline_path)}


def test_a_run_leaves_what_the_readme_lists(config: Config, tmp_path: Path) -> None:
    run = distilled(config, tmp_path / "run")
    names = {file.name for file in run.path.iterdir()}
    assert names >= {"config.toml", "run.json", "bank", "metrics.jsonl", "student.safetensors", "report.html"}
    assert not any(name.startswith(".partial") for name in names)
    assert "checkpoints" not in names
    record = json.loads((run.path / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["teacher_passes"] == {"forward": 120 * 5, "backward": 120 * 4}
    assert record["outside_contract"] == []
    assert "left the strict contract" not in (run.path / "report.html").read_text(encoding="utf-8")
    assert set(record["seconds"]) >= {"load", "synthesis", "training", "baseline", "evaluation"}
    assert set(record["evaluation"]["accuracy"]) == {"teacher", "student", "noise_baseline"}
    assert len(run.metrics("synthesis")) == 4
    assert [line["epoch"] for line in run.metrics("training")] == [1, 2]


def test_the_same_command_gives_the_same_files(config: Config, tmp_path: Path) -> None:
    assert hashes(distilled(config, tmp_path / "a")) == hashes(distilled(config, tmp_path / "b"))


def test_another_seed_gives_others(config: Config, tmp_path: Path) -> None:
    first = hashes(distilled(config, tmp_path / "a"))
    second = hashes(distilled(replace(config, seed=1), tmp_path / "b"))
    assert not set(first.values()) & set(second.values())


def test_a_stop_in_any_stage_loses_nothing(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hashes(distilled(config, tmp_path / "undisturbed"))
    run = start(config, tmp_path / "stopped")
    prepared = prepare(config, student=True)
    calls = {"wave": 0, "save": 0}
    wave, save = Engine.wave, training.save_student

    def wave_that_stops(engine: Engine, *arguments: object) -> object:
        calls["wave"] += 1
        if calls["wave"] == 3:
            raise KeyboardInterrupt
        return wave(engine, *arguments)  # type: ignore[arg-type]

    def save_that_stops(*arguments: object, **keywords: object) -> None:
        calls["save"] += 1
        if calls["save"] in (1, 3):
            raise KeyboardInterrupt
        save(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "wave", wave_that_stops)
    monkeypatch.setattr(training, "save_student", save_that_stops)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            pipeline.distill(prepared, RunDirectory.open(run.path), SILENT)
    pipeline.distill(prepared, RunDirectory.open(run.path), SILENT)
    assert hashes(run) == expected
    finished = RunDirectory.open(run.path)
    assert [line["shard"] for line in finished.metrics("synthesis")] == [0, 1, 2, 3]
    assert [line["epoch"] for line in finished.metrics("training")] == [1, 2]


def test_the_floor_is_as_large_as_the_bank_that_the_time_allowed(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried = replace(config, synthesis=replace(config.synthesis, time_budget="1h", rounds=1))
    monkeypatch.setattr("cake_cli.synthesis.course.LOOK_SECONDS", 0.0)
    monkeypatch.setattr(Course, "is_over_time", property(lambda course: course._mine > 60))
    run = distilled(hurried, tmp_path / "run")
    bank = SampleBank.open(run.bank_path)
    assert (len(bank), bank.is_complete, bank.plan.samples) == (60, True, 120)
    assert run.record["baseline_passes"]["forward"] == 60
    assert run.record["synthesis"]["samples"] == 60


def test_a_collapse_ends_early(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wave, calls = Engine.wave, []

    def one_class(engine: Engine, *arguments: object) -> object:
        calls.append(arguments)
        made = wave(engine, *arguments)  # type: ignore[arg-type]
        made.samples.logits.copy_(torch.tensor([9.0, 0.0, 0.0]).expand_as(made.samples.logits))
        return made

    monkeypatch.setattr(Engine, "wave", one_class)
    monkeypatch.setattr("cake_cli.synthesis.health.EARLY_SAMPLES", 40)
    prepared = prepare(config, student=False)
    with pytest.raises(RunError, match=r"degenerate: the teacher puts 100% of the first 60"):
        synthesizing.synthesize(prepared, tmp_path / "bank", SILENT)
    assert len(calls) <= 3, "of four waves; one was being made when the second was measured"
    made = len(calls)
    bank = SampleBank.open(tmp_path / "bank")
    assert (bank.is_complete, len(bank)) == (False, 60)
    with pytest.raises(RunError, match="degenerate"):
        synthesizing.synthesize(prepared, tmp_path / "bank", SILENT)
    assert len(calls) == made, "to go on would be no use"


def test_what_is_not_finite_leaves_the_shards_before_it(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = synthesizing.build_engine

    def diverging(*arguments: object, **keywords: object) -> Engine:
        engine = build(*arguments, **keywords)  # type: ignore[arg-type]
        plain = replace(engine.update, max_update=0.0)
        return replace(engine, step_sizes=(0.1, 0.1, 1e38, 1e38), update=plain)

    monkeypatch.setattr(synthesizing, "build_engine", diverging)
    with pytest.raises(RunError, match=r"not finite at step \d+ \(step size 1.0e\+38\)"):
        synthesizing.synthesize(prepare(config, student=False), tmp_path / "bank", SILENT)
    bank = SampleBank.open(tmp_path / "bank")
    assert (bank.finished_waves, bank.is_complete, len(bank.samples())) == (2, False, 60)
    assert sorted(file.name for file in bank.path.iterdir()) == [
        "journal-00000.jsonl",
        "manifest.json",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]


def test_a_generator_is_gone_on_with(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while it is trained, and again between two shards: the same bank, the same generator."""
    chosen = replace(config, synthesis=replace(config.synthesis, method="generative"))
    prepared = prepare(chosen, student=False)
    whole = synthesizing.synthesize(prepared, tmp_path / "whole", SILENT)
    monkeypatch.setattr(generative, "CHECKPOINT_SECONDS", 0.0)
    take, wave = GeneratorTraining.take, Engine.wave

    def stop_training(own: GeneratorTraining, update: int, *rest: object) -> torch.Tensor:
        if update == 5:
            raise KeyboardInterrupt
        return take(own, update, *rest)  # type: ignore[arg-type]

    def stop_drawing(engine: Engine, sets: range, stage: object) -> object:
        if sets.start == 2:
            raise KeyboardInterrupt
        return wave(engine, sets, stage)  # type: ignore[arg-type]

    for owner, name, stop in ((GeneratorTraining, "take", stop_training), (Engine, "wave", stop_drawing)):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, stop)
            with pytest.raises(KeyboardInterrupt):
                synthesizing.synthesize(prepared, tmp_path / "stopped", SILENT)
    stopped = synthesizing.synthesize(prepared, tmp_path / "stopped", SILENT)
    assert [shard["sha256"] for shard in stopped.manifest["shards"]] == [
        shard["sha256"] for shard in whole.manifest["shards"]
    ]
    names = [path / "generator.safetensors" for path in (stopped.path, whole.path)]
    assert names[0].read_bytes() == names[1].read_bytes()
    assert asdict(whole.passes) == {"forward": 120 * 5, "backward": 120 * 4}, "as many as CAKE with these steps"


def test_the_manifest_says_how_each_set_came_out(config: Config, tmp_path: Path) -> None:
    two = replace(config, synthesis=replace(config.synthesis, sets_at_once=2))
    bank = synthesizing.synthesize(prepare(two, student=False), tmp_path / "bank", SILENT)
    for shard in bank.manifest["shards"]:
        columns = shard["set_health"]
        known = {"on_target", "confidence", "entropy", "histogram", "saturated", "dead", "redrawn", "variety"}
        assert set(columns) == known
        assert {len(column) for column in columns.values()} == {2}
        assert [sum(counts) for counts in columns["histogram"]] == [30, 30]
        assert shard["health"]["on_target"] == pytest.approx(sum(columns["on_target"]) / 2)
        assert shard["health"]["dead"] == 0.0
    assert bank.manifest["objective"] == {"cls": 20.0, "contrastive": 2.0, "tv": 200.0}
    assert bank.manifest["outside_contract"] == []


def test_what_leaves_the_strict_contract_is_named_everywhere(config: Config, tmp_path: Path) -> None:
    source = tmp_path / "norm.py"
    source.write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Tanh(),\n"
        "                               torch.nn.Flatten(), torch.nn.Linear(16, 3))\n"
    )
    chosen = replace(
        config,
        teacher=replace(config.teacher, file=f"{source}:make", input_shape=(1, 4, 4)),
        synthesis=replace(config.synthesis, batchnorm_weight=5.0),
        evaluation=replace(config.evaluation, baseline=False),
    )
    run = distilled(chosen, tmp_path / "run")
    used = ["BatchNorm statistics"]
    assert run.record["outside_contract"] == used
    assert pipeline.result(run)["outside_contract"] == used
    assert SampleBank.open(run.bank_path).manifest["outside_contract"] == used
    assert "BatchNorm statistics of the teacher were used" in (run.path / "report.html").read_text(encoding="utf-8")
    plain = replace(config, synthesis=replace(config.synthesis, batchnorm_weight=5.0))
    with pytest.raises(UsageError, match="has no BatchNorm layers"):
        prepare(plain, student=True)


def test_the_gate_is_told_at_the_end(config: Config, tmp_path: Path) -> None:
    strict = replace(config, evaluation=replace(config.evaluation, min_agreement=1.0, baseline=False))
    run = start(strict, tmp_path / "run")
    with pytest.raises(AgreementMissed, match=r"agree on .* less than 100.00%"):
        pipeline.distill(prepare(strict, student=True), run, SILENT)
    assert run.record["status"] == "complete"
    assert run.student_path.exists()
    assert run.record["evaluation"]["accuracy"]["noise_baseline"] is None


def test_samples_are_chosen_by_their_step_size(config: Config, tmp_path: Path) -> None:
    narrow = replace(config, training=replace(config.training, min_step_size=1.0))
    with pytest.raises(DataError, match="no samples are left"):
        distilled(narrow, tmp_path / "run")
