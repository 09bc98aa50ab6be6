"""The whole way, on a random teacher and tiny budgets: what each stage leaves, and that a stop loses nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cake_cli import pipeline
from cake_cli.config import Config, EvaluationConfig
from cake_cli.errors import AgreementMissed, DataError, RunError
from cake_cli.events import SILENT
from cake_cli.planning import prepare
from cake_cli.runs import RunDirectory
from cake_cli.storage import sha256
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.engine import Engine
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
    wave, save = Engine.wave, pipeline.save_student

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
    monkeypatch.setattr(pipeline, "save_student", save_that_stops)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            pipeline.distill(prepared, RunDirectory.open(run.path), SILENT)
    pipeline.distill(prepared, RunDirectory.open(run.path), SILENT)
    assert hashes(run) == expected
    finished = RunDirectory.open(run.path)
    assert [line["shard"] for line in finished.metrics("synthesis")] == [0, 1, 2, 3]
    assert [line["epoch"] for line in finished.metrics("training")] == [1, 2]


def test_a_bank_of_other_settings_is_not_gone_on_with(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "bank"
    pipeline.synthesize(prepare(config, student=False), path, SILENT)
    other = replace(config, synthesis=replace(config.synthesis, steps=5))
    with pytest.raises(DataError, match="begun with other settings"):
        pipeline.synthesize(prepare(other, student=False), path, SILENT)
    assert SampleBank.open(path).is_complete


def test_a_collapse_is_an_error_with_advice(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = Engine.wave

    def one_class(engine: Engine, *arguments: object) -> object:
        made = wave(engine, *arguments)  # type: ignore[arg-type]
        made.samples.logits.copy_(torch.tensor([9.0, 0.0, 0.0]).expand_as(made.samples.logits))
        return made

    monkeypatch.setattr(Engine, "wave", one_class)
    with pytest.raises(RunError, match=r"degenerate: the teacher puts 100%") as caught:
        pipeline.synthesize(prepare(config, student=False), tmp_path / "bank", SILENT)
    assert caught.value.fix


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


def test_every_nth_set_is_held_out() -> None:
    prepared_plan = pipeline.SetPlan(sets=40, rows=2, groups=5, at_once=4)
    held = pipeline._heldout_mask(400, prepared_plan, 0.05)
    assert int(held.sum()) == 20
    assert held.reshape(40, 10).all(dim=1).sum() == 2
    assert not pipeline._heldout_mask(400, prepared_plan, 0.0).any()
    assert not pipeline._heldout_mask(10, prepared_plan, 0.05).any()
