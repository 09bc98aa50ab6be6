"""The training half of a run: what is learned, what is held out, what real data and views cost and change."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from cake_cli import pipeline, training
from cake_cli.config import Config, EvaluationConfig, TrainingConfig
from cake_cli.distillation.pool import Part
from cake_cli.distillation.views import Views
from cake_cli.errors import DataError, RunError, UsageError
from cake_cli.events import SILENT, SilentReporter
from cake_cli.lesson import compose, heldout_mask
from cake_cli.models.classifier import Classifier
from cake_cli.models.students import load_student
from cake_cli.planning import prepare
from cake_cli.ranks import Ranks
from cake_cli.runs import RunDirectory
from cake_cli.storage import sha256
from cake_cli.synthesis.bank import SampleBank
from tests.test_planning import small


@pytest.fixture
def config(mlp_file: Path) -> Config:
    """One bank, in one go: nothing is learned beside it."""
    config = small(mlp_file)
    one_go = replace(config.synthesis, rounds=1)
    return replace(config, synthesis=one_go, evaluation=EvaluationConfig(report=False))


@pytest.fixture
def alone(config: Config, real: str) -> Config:
    """Real data, and no word of how many samples: there are none."""
    config = replace(config, synthesis=replace(config.synthesis, samples=None))
    return with_training(config, real_data=real)


@pytest.fixture
def real(tmp_path: Path) -> str:
    draw = np.random.default_rng(1)
    file = tmp_path / "real.npz"
    np.savez(
        file,
        x_train=draw.integers(0, 256, (70, 4, 4), dtype=np.uint8), y_train=np.arange(70) % 3,
        x_test=draw.integers(0, 256, (20, 4, 4), dtype=np.uint8), y_test=np.arange(20) % 3,
    )  # fmt: skip
    return str(file)


def with_training(config: Config, **changes: object) -> Config:
    return replace(config, training=replace(config.training, **changes))  # type: ignore[arg-type]


def run_of(config: Config, path: Path, reporter: SilentReporter = SILENT) -> RunDirectory:  # type: ignore[assignment]
    run = RunDirectory.create(path, config, command="distill", force=False)
    pipeline.distill(prepare(config, student=True), run, reporter)
    return run


@pytest.fixture
def bank(config: Config, tmp_path: Path) -> SampleBank:
    return pipeline.synthesize(prepare(config, student=False), tmp_path / "bank", SILENT)


def test_every_nth_row_is_held_out_of_every_set():
    held = heldout_mask(1000, 5, 0.05)
    assert int(held.sum()) == 50
    assert held.view(200, 5).all(dim=1).sum() == 10
    assert (held.view(10, 100).sum(dim=1) == 5).all(), "each set alike"
    assert not heldout_mask(1000, 5, 0.0).any()
    assert not heldout_mask(5, 5, 0.05).any()
    assert int(heldout_mask(1000, 5, 0.5).sum()) == 500


@pytest.mark.parametrize("rows", [1, 2, 10, 20, 50])
@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.5])
def test_what_is_held_out_was_not_learned_in_an_earlier_round(rows: int, fraction: float):
    masks = [heldout_mask(number * rows * 5, 5, fraction, first=rows * 5) for number in range(1, 40)]
    for before, after in pairwise(masks):
        assert (after[: len(before)] == before).all()
    assert 0 < int(masks[-1].sum()) <= len(masks[-1]) / 2, "some is, and not all"


def test_a_lesson_has_every_sample_once(bank: SampleBank):
    lesson = compose(bank, [], TrainingConfig(heldout_fraction=0.2))
    assert lesson.heldout is not None
    assert lesson.neighbours is not None
    together = torch.cat([lesson.learned.rows, lesson.heldout.rows])
    assert together.sort().values.tolist() == list(range(60))
    assert set(lesson.neighbours.rows.tolist()) <= set(lesson.learned.rows.tolist())
    assert (len(lesson.neighbours), len(lesson.heldout)) == (24, 12)
    assert lesson.learned.paired == 48
    assert lesson.learned.group == bank.plan.groups


def test_real_samples_are_learned_and_never_measured_on(bank: SampleBank):
    part = Part(torch.zeros(7, 1, 4, 4), torch.zeros(7, 3), torch.zeros(7, dtype=torch.int64))
    lesson = compose(bank, [part], TrainingConfig(heldout_fraction=0.2))
    assert lesson.learned.rows[-7:].tolist() == list(range(60, 67))
    assert lesson.learned.paired == 48
    for pool in (lesson.heldout, lesson.neighbours):
        assert pool is not None
        assert not pool.has_labels
    alone = compose(None, [part], TrainingConfig())
    assert (len(alone.learned), alone.heldout, alone.neighbours) == (7, None, None)


def test_hintons_distillation_takes_no_synthetic_sample(alone: Config, real: str, tmp_path: Path):
    written = replace(with_training(alone, temperature=4.0), evaluation=EvaluationConfig(report=True))
    run = run_of(written, tmp_path / "run")
    record = run.record
    assert record["data_free"] is False
    assert record["real_data"] == {"data": real, "samples": 70}
    assert record["synthesis"] == {"samples": 0, "method": "none"}
    assert record["teacher_passes"] == {"forward": 0, "backward": 0}
    assert record["training_passes"] == {"forward": 70, "backward": 0}
    assert not run.bank_path.exists()
    facts = load_student(run.student_path).facts
    assert facts["cake.data_free"] == "false"
    assert "NOT data-free" in facts["cake.origin"]
    assert "not data-free" in (run.path / "report.html").read_text()


def test_real_data_mixed_with_a_bank(config: Config, real: str, tmp_path: Path):
    mixed = replace(config, evaluation=EvaluationConfig(data=real, split="test", report=False))
    run = run_of(with_training(mixed, real_data=real), tmp_path / "mixed")
    assert run.record["synthesis"]["samples"] == 60
    assert run.record["training_passes"] == {"forward": 70, "backward": 0}
    assert run.record["synthetic_fidelity"] is not None
    assert load_student(run.baseline_path).facts["cake.data_free"] == "true", "noise alone trained it"
    plain = run_of(mixed, tmp_path / "plain")
    assert plain.record["data_free"] is True
    assert plain.record["training_passes"] == {"forward": 0, "backward": 0}
    assert sha256(plain.student_path) != sha256(run.student_path)
    assert sha256(plain.baseline_path) == sha256(run.baseline_path)


def test_lambda_decides_what_is_learned(alone: Config, tmp_path: Path):
    runs = [run_of(with_training(alone, hard_weight=share), tmp_path / str(share)) for share in (0.0, 0.5, 1.0)]
    assert len({sha256(run.student_path) for run in runs}) == 3


def test_nobody_learns_from_what_measures(config: Config, real: str, tmp_path: Path):
    both = with_training(config, real_data=real, real_split="test")
    both = replace(both, evaluation=EvaluationConfig(data=f"{tmp_path}/../{tmp_path.name}/real.npz", split="test"))
    with pytest.raises(UsageError, match="would be measured on"):
        prepare(both, student=True)


def test_real_data_must_fit_the_teacher(config: Config, tmp_path: Path):
    np.savez(tmp_path / "bad.npz", x=np.zeros((6, 4, 4), np.uint8), y=np.arange(6))
    with pytest.raises(DataError, match="label"):
        prepare(with_training(config, real_data=str(tmp_path / "bad.npz")), student=True)


def test_views_are_counted_and_a_stop_loses_nothing(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    viewed = with_training(config, views=("mix", "noise"), epochs=3, heldout_fraction=0.0)
    run = run_of(viewed, tmp_path / "run")
    assert run.record["training_passes"] == {"forward": 3 * 48, "backward": 0}, "three batches of 16 an epoch"
    assert run.record["data_free"] is True
    stopped = RunDirectory.create(tmp_path / "stopped", viewed, command="distill", force=False)
    call, calls = Views.__call__, []

    def killed(views: Views, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 9:  # one when the step was timed: this is in the middle of the last epoch
            raise KeyboardInterrupt
        return call(views, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Views, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.distill(prepare(viewed, student=True), stopped, SILENT)
    pipeline.distill(prepare(viewed, student=True), RunDirectory.open(stopped.path), SILENT)
    assert sha256(stopped.student_path) == sha256(run.student_path)
    assert RunDirectory.open(stopped.path).record["training_passes"] == run.record["training_passes"]


def test_views_take_a_teacher_and_samples(config: Config, bank: SampleBank, alone: Config):
    orphan = replace(config, teacher=replace(config.teacher, file=None))
    orphan = replace(orphan, synthesis=replace(config.synthesis, bank=str(bank.path)))
    with pytest.raises(UsageError, match="teacher's file is needed to label changed samples"):
        prepare(with_training(orphan, views=("noise",)), student=True)
    with pytest.raises(UsageError, match="there are none"):
        prepare(with_training(alone, views=("noise",)), student=True)


class Listening(SilentReporter):
    def __init__(self) -> None:
        self.warned: list[str] = []
        self.noted: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)

    def note(self, text: str) -> None:
        self.noted.append(text)


def test_a_student_that_overfits_is_told(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "known_by_heart", lambda learned, heldout: 0.4)
    listening = Listening()
    run_of(config, tmp_path / "run", listening)
    assert len(listening.warned) == 1
    assert "overfits" in listening.warned[0]


def test_samples_drawn_to_what_students_had_wrong_are_no_sign_of_overfitting(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training, "known_by_heart", lambda learned, heldout: 0.4)
    listening = Listening()
    run_of(replace(config, synthesis=replace(config.synthesis, rounds=2)), tmp_path / "run", listening)
    assert listening.warned == []
    assert any("students had wrong" in text for text in listening.noted)


def test_where_samples_lie_changes_no_bit(config: Config, tmp_path: Path):
    students = {
        place: sha256(run_of(with_training(config, bank_memory=place), tmp_path / place).student_path)
        for place in ("auto", "disk")
    }
    assert len(set(students.values())) == 1


def test_a_teacher_that_is_not_finite_on_real_data(alone: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    prepared = prepare(alone, student=True)
    monkeypatch.setattr(Classifier, "__call__", lambda teacher, rows: torch.full((len(rows), 3), float("nan")))
    run = RunDirectory.create(tmp_path / "run", prepared.config, command="distill", force=False)
    with pytest.raises(RunError, match="outputs are not finite for 70 of 70 real samples"):
        pipeline.distill(prepared, run, SILENT)


def test_a_batch_too_small_to_share_is_refused(config: Config, bank: SampleBank, tmp_path: Path):
    few = with_training(config, batch_size=3)
    run = RunDirectory.create(tmp_path / "run", few, command="train", force=False)
    with pytest.raises(UsageError, match="a batch of 3 samples cannot be shared by 2 ranks"):
        training.train_student(prepare(few, student=True), run, bank, SILENT, Ranks(0, 2))


# --- a start from weights -----------------------------------------------------------------------------------------


def test_a_student_starts_from_weights_and_its_header_says_so(config: Config, real: str, tmp_path: Path) -> None:
    first = run_of(with_training(config, lr=0.1), tmp_path / "first")
    onwards = replace(config, student=replace(config.student, weights=str(first.path)))
    run = run_of(with_training(onwards, lr=1e-9), tmp_path / "second")
    before, after = (load_student(one.student_path) for one in (first, run))
    assert all(
        torch.allclose(a, b, atol=1e-5)
        for a, b in zip(before.module.parameters(), after.module.parameters(), strict=True)
    )
    assert after.facts["cake.start_sha256"] == sha256(first.student_path)
    assert after.facts["cake.data_free"] == "true"
    taught = run_of(with_training(onwards, real_data=real), tmp_path / "third")
    origin = load_student(taught.student_path).facts["cake.origin"]
    assert origin.startswith("trained with real data: NOT data-free; started from the weights of a file")
    again = replace(config, student=replace(config.student, weights=str(taught.path)))
    blueprint = prepare(again, student=True).student
    assert blueprint is not None
    assert blueprint.note.endswith("which real data trained")


def test_noise_is_learned_beside_the_bank_and_counted(config: Config, tmp_path: Path) -> None:
    mixed = with_training(config, noise_samples=40)
    run = run_of(mixed, tmp_path / "mixed")
    assert run.record["training_passes"] == {"forward": 60, "backward": 0}, "in whole sets of thirty"
    assert run.record["data_free"] is True
    lesson = training.lesson_of(prepare(mixed, student=True), run, SampleBank.open(run.bank_path), SILENT)
    assert len(lesson.learned) == lesson.learned.paired + 60
    assert lesson.heldout is not None
    assert int(lesson.heldout.rows.max()) < 60, "nothing is measured on it"
    plain = run_of(config, tmp_path / "plain")
    assert sha256(run.student_path) != sha256(plain.student_path)
    bank = replace(mixed.synthesis, bank=str(plain.bank_path))
    alone = replace(mixed, teacher=replace(mixed.teacher, file=None), synthesis=bank)
    with pytest.raises(UsageError, match="needed to label noise"):
        prepare(alone, student=True)


@pytest.mark.parametrize(("setting", "value"), [("ema", 0.5), ("clip", 0.5), ("lr_schedule", "cosine")])
def test_settings_of_the_optimizer_arrive(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: object
):
    given: list[dict[str, object]] = []
    original = training.train
    monkeypatch.setattr(training, "train", lambda *args, **more: given.append(more) or original(*args, **more))
    run_of(with_training(config, **{setting: value}), tmp_path / "run")
    assert [more[setting] for more in given] == [value]
