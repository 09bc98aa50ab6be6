"""Starting points that are labelled beside a bank: how many, in which round, once for all students, and the floor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cake_cli import pipeline, training
from cake_cli.config import Config, EvaluationConfig, StudentConfig, TrainingConfig
from cake_cli.distillation.pool import Part
from cake_cli.errors import DataError
from cake_cli.estimating import estimate
from cake_cli.events import SILENT, SilentReporter, Stage
from cake_cli.labelled import starts_of_baseline
from cake_cli.lesson import Lesson
from cake_cli.planning import NOISE_FOR_EACH, Prepared, prepare
from cake_cli.runs import RunDirectory
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.engine import Engine, Wave
from cake_cli.training import Stretch
from tests.conftest import save_mlp
from tests.test_planning import small


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return three_rounds(tmp_path_factory.mktemp("beside"))


def three_rounds(folder: Path) -> Config:
    """Three rounds of two sets of thirty samples, and what is learned beside left to the tool."""
    config = small(save_mlp(folder / "teacher.onnx"))
    return replace(
        config,
        synthesis=replace(config.synthesis, samples=180, rounds=3),
        training=replace(config.training, epochs=None),
        evaluation=EvaluationConfig(report=False),
    )


def run_of(config: Config, path: Path) -> RunDirectory:
    """A run of these settings, of four epochs unless they say how many."""
    config = with_training(config, epochs=config.training.epochs or 4)
    run = RunDirectory.create(path, config, command="distill", force=False)
    pipeline.distill(prepare(config, student=True), run, SilentReporter())
    return run


def with_training(config: Config, **changes: object) -> Config:
    return replace(config, training=replace(config.training, **changes))  # type: ignore[arg-type]


def with_synthesis(config: Config, **changes: object) -> Config:
    return replace(config, synthesis=replace(config.synthesis, **changes))  # type: ignore[arg-type]


def test_rounds_label_seven_starting_points_beside_each_sample(config: Config, tmp_path: Path) -> None:
    prepared = prepare(config, student=True)
    assert (prepared.noise_samples, prepared.waypoints) == (7 * 180, 3), "of four steps"
    assert (prepared.learned_rows, prepared.epochs) == (11 * 180, 1_000), "at most"
    run = run_of(config, tmp_path / "run")
    assert run.record["training_passes"] == {"forward": 7 * 180, "backward": 0}
    assert [entry.get("learned") for entry in run.record["rounds"]] == [4 * 57 + 420, 2 * (4 * 57 + 420), None]
    plan = run.record["plan"]
    assert (plan["noise_samples"], plan["waypoints"], plan["epochs"]) == (7 * 180, 3, 4)
    assert not (run.path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "training_changes", "expected"),
    [
        ({"rounds": 1}, {}, (0, 0, 1_000)),
        ({"rounds": None}, {}, (7 * 180, 3, 303)),
        ({"rounds": None, "method": "naive"}, {}, (0, 0, 1_000)),
        ({"rounds": 1}, {"waypoints": 2}, (0, 2, 1_000)),
        ({"gradients": "estimated"}, {}, (0, 3, 833)),
        ({}, {"noise_samples": 0}, (0, 3, 833)),
        ({}, {"noise_samples": 31}, (60, 3, 769)),
        ({}, {"noise_samples": 0, "waypoints": 0}, (0, 0, 1_000)),
        ({"steps": 20}, {}, (7 * 180, 7, 222)),
        ({}, {"epochs": 9}, (7 * 180, 3, 9)),
    ],
    ids=[
        "one round",
        "too few for rounds",
        "another method",
        "waypoints of one",
        "estimated gradients",
        "none",
        "a number",
        "neither",
        "steps",
        "epochs",
    ],
)
def test_how_much_is_learned_beside_and_how_often(
    config: Config, changes: dict[str, object], training_changes: dict[str, object], expected: tuple[int, int, int]
) -> None:
    chosen = replace(with_training(with_synthesis(config, **changes), **training_changes), student=StudentConfig("cnn"))
    prepared = prepare(chosen, student=True)
    assert (prepared.noise_samples, prepared.waypoints, prepared.epochs) == expected


def test_students_of_images_that_are_slow_to_learn_do_so_more_often(config: Config, tmp_path: Path) -> None:
    def epochs(student: str, of: Config, **changes: object) -> int:
        return prepare(with_training(replace(of, student=StudentConfig(student)), **changes), student=True).epochs

    assert epochs("linear", config) == epochs("mlp:8", config) == 1_000, "at most"
    assert epochs("cnn", config) == 303
    more = replace(config, synthesis=replace(config.synthesis, samples=1800))
    assert (epochs("mlp:8", more), epochs("cnn", more)) == (121, 30)
    assert [epochs(name, more) for name in ("wrn-10-1", "resnet18", "vit:dim=8,depth=3,heads=2")] == [61] * 3
    assert epochs("vit:dim=8,depth=1,heads=2", more) == 30
    assert epochs("mlp", config, epochs=5) == 5
    vectors = small(save_mlp(tmp_path / "vectors.onnx", shape=(7,)))
    deep = "mlp:" + ",".join(["4"] * 12)
    assert [epochs(name, vectors, epochs=None) for name in ("mlp", deep)] == [909] * 2, "no pixels: as often as most"


def test_of_large_inputs_there_are_as_many_as_fit(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cake_cli.planning.NOISE_BYTES", 300 * 4 * (4 * 4 + 3))
    prepared = prepare(config, student=True)
    assert (prepared.noise_samples, prepared.waypoints) == (300, 1)


def test_a_bank_alone_has_nothing_beside(config: Config) -> None:
    prepared = prepare(with_synthesis(config, rounds=1), student=False)
    assert (prepared.noise_samples, prepared.waypoints) == (0, 0)
    asked = with_training(with_synthesis(config, rounds=1), waypoints=3)
    assert prepare(asked, student=False).waypoints == 0, "nobody would learn them"


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
    assert seconds["baseline"] == pytest.approx(11 * 180 * 1e-3)


def test_a_round_learns_the_noise_of_all_rounds_so_far(config: Config, tmp_path: Path) -> None:
    prepared = prepare(with_training(config, noise_samples=90, waypoints=0), student=True)
    run = run_of(prepared.config, tmp_path / "run")
    bank = SampleBank.open(run.bank_path)
    lesson = training.lesson_of(prepared, run, bank, SILENT)
    assert len(lesson.learned) - lesson.learned.paired - lesson.waypoints == 90
    folders = sorted(path.name for path in (run.path / "checkpoints" / "beside").iterdir())
    assert folders == ["1", "2", "3"]
    starts = [part.inputs for part in lesson.learned.parts[-3:]]
    assert [len(rows) for rows in starts] == [30, 30, 30]
    assert not (starts[0] == starts[1]).all(), "each round has its own"


def test_waves_that_a_probe_widened_leave_what_is_labelled_where_it_is(config: Config, tmp_path: Path) -> None:
    prepared = prepare(with_training(config, noise_samples=360), student=True)
    run = RunDirectory.create(tmp_path / "run", prepared.config, command="distill", force=False)
    before = training.starts_of_round(prepared, run, None, 2, SILENT)
    for sets in (1, 2, 7):
        wider = replace(prepared, plan=replace(prepared.plan, at_once=sets))
        after = training.starts_of_round(wider, run, None, 2, SILENT)
        assert [len(part.inputs) for part in after] == [len(part.inputs) for part in before]
        assert all((one.logits == other.logits).all() for one, other in zip(before, after, strict=True))
    assert sum(len(part.inputs) for part in before) == 120


def test_what_one_device_labelled_another_goes_on_with(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU labels 500 at once, others 4,000: 34 sets of thirty are two shelves of either, cut alike."""
    monkeypatch.setattr("cake_cli.labelled.SHELVES", 2)
    prepared = prepare(with_training(config, noise_samples=3060), student=True)
    run = RunDirectory.create(tmp_path / "run", prepared.config, command="distill", force=False)
    begun = [part.logits.clone() for part in training.starts_of_round(prepared, run, None, 2, SILENT)]
    monkeypatch.setattr("cake_cli.hardware.Hardware.rows_side_by_side", 4000)
    monkeypatch.setattr(Engine, "wave", None)  # nothing is labelled again
    after = [part.logits for part in training.starts_of_round(prepared, run, None, 2, SILENT)]
    assert sum(map(len, begun)) == 34 * 30
    assert all((one == other).all() for one, other in zip(begun, after, strict=True))


def test_several_students_learn_the_same_noise_labelled_once(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[str] = []
    fill = training.Shelf.fill

    def told(shelf: training.Shelf, samples: Iterable[Part]) -> None:
        if "beside" in shelf.path.parts:
            filled.append(str(shelf.path.relative_to(tmp_path)))
        fill(shelf, samples)

    monkeypatch.setattr(training.Shelf, "fill", told)
    two = replace(config, student=replace(config.student, others=("mlp:8",)))
    run = run_of(two, tmp_path / "two")
    assert len(set(filled)) == len(filled)
    assert {str(Path(path).parent) for path in filled} == {f"two/checkpoints/beside/{number}" for number in (1, 2, 3)}
    for own in run.students().values():
        assert own.record["training_passes"]["forward"] == 7 * 180
        assert own.config().training.noise_samples == 7 * 180, "so that it can be gone on with alone"
    assert run.record["training_passes"] == {"forward": 7 * 180, "backward": 0}, "both learn from the same labels"
    assert not (run.path / "checkpoints").exists()


def test_the_floor_has_as_many_starting_points_as_the_student_learned_from(config: Config, tmp_path: Path) -> None:
    prepared = prepare(with_training(config, epochs=2), student=True)
    run = run_of(config, tmp_path / "run")
    training.train_baseline(prepared, run, SILENT)
    assert run.record["baseline_passes"] == {"forward": (4 + NOISE_FOR_EACH) * 180, "backward": 0}


def test_the_floor_learns_as_many_rows_as_the_student_of_rounds(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of its work lies between the rounds; the second student of a run has no part in those."""
    learned: list[tuple[str, int]] = []
    fit = training._fit

    def counted(prepared: Prepared, run: RunDirectory, lesson: Lesson, stretch: Stretch, *rest: Any, **how: Any) -> Any:
        learned.append((stretch.name, (stretch.epochs or prepared.epochs) * len(lesson.learned)))
        return fit(prepared, run, lesson, stretch, *rest, **how)

    monkeypatch.setattr(training, "_fit", counted)
    data = tmp_path / "heldout.npz"
    np.savez(data, x=np.zeros((4, 4, 4), dtype=np.uint8), y=np.arange(4) % 3)
    two = replace(
        config,
        student=replace(config.student, others=("mlp:8",)),
        evaluation=EvaluationConfig(data=str(data), report=False),
    )
    prepared = prepare(with_training(two, epochs=4), student=True)
    assert prepared.epochs_of_noise(in_rounds=True) == 6
    assert prepared.epochs_of_noise(in_rounds=False) == prepared.epochs == 4
    run = run_of(two, tmp_path / "run")
    rows: dict[str, int] = {}
    for name, count in learned:
        rows[name] = rows.get(name, 0) + count
    first, second = run.students().values()
    assert [len(own.metrics("baseline")) for own in (first, second)] == [6, 4]
    student = sum(count for name, count in learned if name.startswith("round-")) + 4 * first.record["learned"]
    assert student == pytest.approx(6 * (4 + NOISE_FOR_EACH) * 180, rel=0.05), "5 % of samples are held out"
    noise = (10 * (4 + NOISE_FOR_EACH) * 180, 8 * first.record["learned"])
    assert (rows["baseline"], rows["training"]) == noise


def test_no_start_that_is_only_labelled_is_one_of_a_neighbouring_seed(config: Config, tmp_path: Path) -> None:
    prepared = prepare(with_training(config, noise_samples=90), student=True)
    run = RunDirectory.create(tmp_path / "run", prepared.config, command="distill", force=False)
    own = torch.cat([part.inputs for part in training.starts_of_round(prepared, run, None, 1, SILENT)])
    for seed in (0, 1):
        other = replace(prepared, config=replace(prepared.config, seed=prepared.config.seed + seed))
        path = RunDirectory.create(tmp_path / f"{seed}", other.config, command="distill", force=False)
        theirs = torch.cat([part.inputs for part in starts_of_baseline(other, path, SILENT)])
        apart = (own.flatten(1)[:, None] - theirs.flatten(1)).abs().amax(dim=2).amin(dim=1)
        assert (apart < 1e-3).double().mean() < 0.5, "of 4x4 pixels some are all black or white"


def test_thirty_passes_over_a_bank_by_default_and_as_many_steps_over_a_small_one() -> None:
    settings = TrainingConfig()
    assert settings.epochs_over(20_000, 20_000) == settings.epochs_over(80_000, 80_000) == 30
    assert settings.epochs_over(20_000, 160_000) == 4
    assert settings.epochs_over(5_000, 40_000) == 15, "a quarter of the samples, four times the passes"
    assert settings.epochs_over(1_000, 15_000) == 40
    assert settings.epochs_over(300, 4_500) == 133
    assert settings.epochs_over(10, 10) == settings.epochs_over(128, 128) == 1_000, "at most"
    assert settings.epochs_over(20_000, 20_000_000) == 1, "one at least"
    assert TrainingConfig(views=("mix",)).epochs_over(200, 3_000) == 20, "a label each: a tenth of the steps"
    assert TrainingConfig(views=("mix",)).epochs_over(80_000, 80_000) == 30
    assert settings.epochs_over(0, 500) == 30, "real data alone"
    assert TrainingConfig(epochs=7).epochs_over(100, 800) == 7


def test_between_rounds_about_as_much_is_learned_each_time_and_half_of_the_last_in_all() -> None:
    found = TrainingConfig().epochs_between(8, 2)
    assert found[0] == 1
    assert found[1:] == pytest.approx([8 / 7 / number for number in range(2, 8)])
    assert sum(part * number / 8 for number, part in enumerate(found, 1)) == pytest.approx(0.5 * 2, rel=0.02)
    assert TrainingConfig().epochs_between(4, 30) == (20, 10, 7), "whole epochs, where there are several"
    assert TrainingConfig(round_epochs=0.5).epochs_between(3, 4) == (0.5, 0.5)


def test_a_share_of_a_lesson_keeps_rows_whole_and_what_is_held_out(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = kept(with_training(config, noise_samples=90, waypoints=2), tmp_path / "run", monkeypatch)
    half = whole.share(0.5, seed=1)
    group, pool = whole.learned.group, half.learned
    assert (half.heldout, half.neighbours) == (whole.heldout, whole.neighbours)
    assert set(pool.rows.tolist()) < set(whole.learned.rows.tolist())
    assert pool.paired % group == 0
    assert 0 < pool.paired < whole.learned.paired
    firsts = pool.rows[: pool.paired : group]
    assert pool.rows[: pool.paired].tolist() == (firsts[:, None] + torch.arange(group)).flatten().tolist()
    end = len(whole.learned) - 90
    ways = set(whole.learned.rows[whole.learned.paired : end].tolist())
    assert half.waypoints == len(ways & set(pool.rows.tolist()))
    units = len(whole.learned) - whole.learned.paired * (group - 1) // group
    assert len(pool) - pool.paired * (group - 1) // group == round(0.5 * units)
    assert half.learned.rows.tolist() == whole.share(0.5, seed=1).learned.rows.tolist()
    assert half.learned.rows.tolist() != whole.share(0.5, seed=2).learned.rows.tolist()


@pytest.mark.parametrize(("wanted", "passes", "part"), [(0.5, 1, 0.5), (1.5, 2, 0.75), (2, 2, 1)])
def test_part_of_an_epoch_between_rounds_is_of_a_share(
    config: Config, tmp_path: Path, wanted: float, passes: int, part: float
) -> None:
    run = run_of(with_training(config, round_epochs=wanted), tmp_path / "run")
    first = run.record["rounds"][0]
    assert first["epochs"] == passes
    assert first["learned"] == pytest.approx(part * (4 * 57 + 420), rel=0.05)


# --- points on the way --------------------------------------------------------------------------------------------


def kept(config: Config, path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunDirectory, training.Lesson]:
    """A run, and what its student learned last."""
    lessons: list[training.Lesson] = []
    compose = training.compose

    def told(*given: object) -> training.Lesson:
        lessons.append(compose(*given))  # type: ignore[arg-type]
        return lessons[-1]

    monkeypatch.setattr(training, "compose", told)
    config = with_training(config, epochs=config.training.epochs or 4)
    run = RunDirectory.create(path, config, command="distill", force=False)
    pipeline.make_in_rounds(prepare(config, student=True), run, SILENT)
    lesson = training.lesson_of(prepare(config, student=True), run, SampleBank.open(run.bank_path), SILENT)
    return run, lesson


def test_waypoints_of_what_is_held_out_are_not_learned(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, lesson = kept(with_training(config, noise_samples=0, waypoints=2), tmp_path / "run", monkeypatch)
    bank = SampleBank.open(run.bank_path)
    assert lesson.heldout is not None
    samples = len(lesson.learned) - lesson.waypoints
    assert (samples + len(lesson.heldout), lesson.waypoints) == (180, 2 * samples)
    whose = (lesson.learned.rows[samples:] - 180) // 2
    assert not set(whose.tolist()) & set(lesson.heldout.rows.tolist())
    assert set(whose.tolist()) == set(lesson.learned.rows[:samples].tolist())
    ways = torch.cat([part.inputs for part in lesson.learned.parts[len(bank.manifest["shards"]) :]])  # (180 · 2, ...)
    ends = bank.samples().inputs
    near, far = ((ways[1::2] - other).flatten(1).norm(dim=1) for other in (ends, ends.roll(7, 0)))
    assert bool((near < far).float().mean() > 0.9), "they lie on the way to their own sample"


def test_with_replay_the_waypoints_are_those_of_what_is_replayed(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = with_training(config, noise_samples=0, waypoints=3, replay=90)
    _, lesson = kept(chosen, tmp_path / "run", monkeypatch)
    assert lesson.waypoints == 3 * (len(lesson.learned) - lesson.waypoints)
    assert len(lesson.learned) <= 4 * 90


def test_labels_on_the_way_are_not_counted_twice(config: Config, tmp_path: Path) -> None:
    run = run_of(with_training(config, noise_samples=0), tmp_path / "run")
    assert run.record["training_passes"] == {"forward": 0, "backward": 0}
    assert run.record["teacher_passes"] == {"forward": 180 * 5, "backward": 180 * 4}


def test_a_bank_that_was_made_elsewhere_has_no_waypoints(config: Config, tmp_path: Path) -> None:
    run = run_of(config, tmp_path / "run")
    again = with_training(with_synthesis(config, bank=str(run.bank_path), rounds=1), waypoints=2)
    with pytest.raises(DataError, match="waypoints are kept while samples are made") as caught:
        run_of(again, tmp_path / "again")
    assert "without waypoints" in caught.value.fix
