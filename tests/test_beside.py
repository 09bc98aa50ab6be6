"""Starting points that are labelled beside a bank: how many, in which round, once for all students, and the floor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cake_cli import pipeline, training
from cake_cli.config import Config, EvaluationConfig, TrainingConfig
from cake_cli.estimating import estimate
from cake_cli.events import SILENT, SilentReporter, Stage
from cake_cli.planning import NOISE_FOR_EACH, prepare
from cake_cli.runs import RunDirectory
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.engine import Engine, Wave
from tests.conftest import save_mlp
from tests.test_planning import small


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Three rounds of two sets of thirty samples, and what is learned beside left to the tool."""
    config = small(save_mlp(tmp_path_factory.mktemp("beside") / "teacher.onnx"))
    return replace(
        config,
        synthesis=replace(config.synthesis, samples=180, rounds=3),
        training=replace(config.training, epochs=None),
        evaluation=EvaluationConfig(report=False),
    )


def run_of(config: Config, path: Path) -> RunDirectory:
    run = RunDirectory.create(path, config, command="distill", force=False)
    pipeline.distill(prepare(config, student=True), run, SilentReporter())
    return run


def with_training(config: Config, **changes: object) -> Config:
    return replace(config, training=replace(config.training, **changes))  # type: ignore[arg-type]


def with_synthesis(config: Config, **changes: object) -> Config:
    return replace(config, synthesis=replace(config.synthesis, **changes))  # type: ignore[arg-type]


def test_rounds_label_seven_starting_points_beside_each_sample(config: Config, tmp_path: Path) -> None:
    prepared = prepare(config, student=True)
    assert (prepared.noise_samples, prepared.epochs) == (7 * 180, 4), "about as many rows as thirty times the bank"
    assert prepared.learned_rows == 8 * 180
    run = run_of(config, tmp_path / "run")
    assert run.record["training_passes"] == {"forward": 7 * 180, "backward": 0}
    assert [entry.get("learned") for entry in run.record["rounds"]] == [57 + 420, 2 * (57 + 420), None]
    assert (run.record["plan"]["noise_samples"], run.record["plan"]["epochs"]) == (7 * 180, 4)
    assert not (run.path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "training_changes", "expected"),
    [
        ({"rounds": 1}, {}, (0, 30)),
        ({"gradients": "estimated"}, {}, (0, 30)),
        ({}, {"noise_samples": 0}, (0, 30)),
        ({}, {"noise_samples": 31}, (60, 22)),
        ({}, {"epochs": 9}, (7 * 180, 9)),
    ],
    ids=["one round", "estimated gradients", "none", "a number", "epochs"],
)
def test_how_much_is_learned_beside_and_how_often(
    config: Config, changes: dict[str, object], training_changes: dict[str, object], expected: tuple[int, int]
) -> None:
    chosen = with_training(with_synthesis(config, **changes), **training_changes)
    prepared = prepare(chosen, student=True)
    assert (prepared.noise_samples, prepared.epochs) == expected


def test_of_large_inputs_there_are_as_many_as_fit(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cake_cli.planning.NOISE_BYTES", 300 * 4 * (4 * 4 + 3))
    assert prepare(config, student=True).noise_samples == 300


def test_a_bank_alone_has_nothing_beside(config: Config) -> None:
    assert prepare(with_synthesis(config, rounds=1), student=False).noise_samples == 0


def test_noise_takes_disk(config: Config) -> None:
    without, beside = (estimate(prepare(with_training(config, noise_samples=n), student=True)) for n in (0, 18_000))
    assert beside.disk - without.disk == 18_000 * 4 * (4 * 4 + 3 + 1)


def test_labels_take_time_that_the_plan_says(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only the teacher moves, a millisecond a row."""
    clock, wave = [0.0], Engine.wave

    def counted(engine: Engine, sets: range, stage: Stage) -> Wave:
        found = wave(engine, sets, stage)
        clock[0] += 1e-3 * (found.passes.forward + found.passes.backward)
        return found

    data = tmp_path / "heldout.npz"
    np.savez(data, x=np.zeros((4, 4, 4), dtype=np.uint8), y=np.arange(4) % 3)
    monkeypatch.setattr(Engine, "wave", counted)
    monkeypatch.setattr("cake_cli.estimating.time.perf_counter", lambda: clock[0])
    shown = replace(config, evaluation=EvaluationConfig(data=str(data), report=False))
    seconds = estimate(prepare(shown, student=True)).seconds
    assert seconds["training"] == pytest.approx(7 * 180 * 1e-3)
    assert seconds["baseline"] == pytest.approx(8 * 180 * 1e-3)


def test_a_round_learns_the_noise_of_all_rounds_so_far(config: Config, tmp_path: Path) -> None:
    prepared = prepare(with_training(config, noise_samples=90), student=True)
    run = run_of(prepared.config, tmp_path / "run")
    bank = SampleBank.open(run.bank_path)
    lesson = training.lesson_of(prepared, run, bank, SILENT)
    assert len(lesson.learned) - lesson.learned.paired == 90
    folders = sorted(path.name for path in (run.path / "checkpoints" / "beside").iterdir())
    assert folders == ["1", "2", "3"]
    starts = [part.inputs for part in lesson.learned.parts[-3:]]
    assert [len(rows) for rows in starts] == [30, 30, 30]
    assert not (starts[0] == starts[1]).all(), "each round has its own"


def test_several_students_learn_the_same_noise_labelled_once(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[str] = []
    fill = training._fill_with_noise

    def told(prepared: object, teacher: object, shelf: training.Shelf, *given: object, **named: object) -> object:
        if not shelf.is_whole:
            filled.append("/".join(shelf.path.parts[-3:]))
        return fill(prepared, teacher, shelf, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_fill_with_noise", told)
    two = replace(config, student=replace(config.student, others=("mlp:8",)))
    run = run_of(two, tmp_path / "two")
    assert filled == [f"checkpoints/beside/{number}" for number in (1, 2, 3)]
    for own in run.students().values():
        assert own.record["training_passes"]["forward"] == 7 * 180
        assert own.config().training.noise_samples == 7 * 180, "so that it can be gone on with alone"
    assert not (run.path / "checkpoints").exists()


def test_the_floor_has_as_many_starting_points_as_the_student_learned_from(config: Config, tmp_path: Path) -> None:
    prepared = prepare(config, student=True)
    run = run_of(config, tmp_path / "run")
    training.train_baseline(prepared, run, SILENT)
    assert run.record["baseline_passes"] == {"forward": (1 + NOISE_FOR_EACH) * 180, "backward": 0}


def test_thirty_passes_over_a_bank_by_default() -> None:
    settings = TrainingConfig()
    assert settings.epochs_over(100, 100) == 30
    assert settings.epochs_over(100, 800) == 4
    assert settings.epochs_over(100, 100_000) == 1, "one at least"
    assert settings.epochs_over(0, 500) == 30, "real data alone"
    assert TrainingConfig(epochs=7).epochs_over(100, 800) == 7
