"""A run of three small rounds, and how tests make and change it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cake_cli import pipeline
from cake_cli.config import Config, EvaluationConfig
from cake_cli.events import SilentReporter
from cake_cli.planning import prepare
from cake_cli.runs import RunDirectory
from cake_cli.storage import sha256
from tests.conftest import save_mlp
from tests.test_planning import small


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Three rounds of two waves of thirty samples of four steps, with three points on the way of each, and thirty
    starting points labelled beside; the student is an average, which is carried on, too.
    """
    config = small(save_mlp(tmp_path_factory.mktemp("rounds") / "teacher.onnx"))
    return replace(
        config,
        synthesis=replace(config.synthesis, samples=180, sets_at_once=1, rounds=3, disagreement=5.0),
        training=replace(config.training, ema=0.5, epochs=4, noise_samples=90),
        evaluation=EvaluationConfig(report=False),
    )


def run_of(config: Config, path: Path, reporter: SilentReporter | None = None) -> RunDirectory:
    run = RunDirectory.create(path, config, command="distill", force=False)
    return go_on(run, config, reporter)


def go_on(run: RunDirectory, config: Config, reporter: SilentReporter | None = None) -> RunDirectory:
    pipeline.distill(prepare(config, student=True), run, reporter or SilentReporter())
    return run


def hashes(run: RunDirectory) -> dict[str, str]:
    found = {file.name: sha256(file) for file in sorted(run.bank_path.glob("*.safetensors"))}
    return found | {"student": sha256(run.student_path)}


def with_synthesis(config: Config, **changes: object) -> Config:
    return replace(config, synthesis=replace(config.synthesis, **changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def undisturbed(config: Config, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return run_of(config, tmp_path_factory.mktemp("undisturbed") / "run")
