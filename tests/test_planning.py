from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from cake_cli.config import Config, HardwareConfig, StudentConfig, SynthesisConfig, TeacherConfig, TrainingConfig
from cake_cli.errors import EnvironmentFault, UsageError
from cake_cli.estimating import Estimate, estimate, require_room, settle
from cake_cli.methods import build_engine
from cake_cli.planning import Prepared, prepare
from cake_cli.ranks import Ranks
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.engine import Engine
from cake_cli.synthesis.step import PlainStep, Walk
from cake_cli.synthesis_config import MOST_SAMPLES


@pytest.fixture
def prepared(mlp_file: Path) -> Prepared:
    return prepare(small(mlp_file), student=True)


def small(teacher: Path) -> Config:
    return Config(
        teacher=TeacherConfig(file=str(teacher)),
        student=StudentConfig("linear"),
        synthesis=SynthesisConfig(samples=60, steps=4, set_size=30),
        training=TrainingConfig(epochs=2, batch_size=16),
        hardware=HardwareConfig(device="cpu"),
    )


def test_what_is_prepared(prepared: Prepared) -> None:
    assert prepared.subject.classes == 3
    assert prepared.subject.spec.shape == (1, 4, 4)
    assert (prepared.plan.groups, prepared.plan.sets, prepared.samples) == (3, 2, 60)
    assert prepared.student is not None
    assert prepared.student.size.parameters == 16 * 3 + 3
    assert prepared.teacher_size is not None
    assert prepared.teacher_size.parameters == 323
    assert not prepared.trains_baseline


def test_a_cap_on_replay_makes_the_work_between_rounds_less(mlp_file: Path) -> None:
    """And with it the epochs of the noise baseline, which learns as many rows as its student."""
    config = small(mlp_file)
    config = replace(config, synthesis=replace(config.synthesis, samples=180, rounds=3))
    works = [
        prepare(replace(config, training=replace(config.training, replay=replay)), student=True).work_between
        for replay in (None, 60, 90)
    ]
    assert works[1:] == pytest.approx([works[0] * 2 / 3, works[0]])


def test_several_students_are_each_known_before_the_start(mlp_file: Path) -> None:
    students = StudentConfig("linear", others=("mlp:8", "vit:dim=8,depth=1,heads=2"))
    prepared = prepare(replace(small(mlp_file), student=students), student=True)
    assert prepared.students == ("linear", "mlp:8", "vit:dim=8,depth=1,heads=2")
    alone = prepared.for_student("mlp:8")
    assert (alone.students, alone.architecture, alone.config.student.others) == (("mlp:8",), "mlp:8", ())
    assert alone.student is not None
    assert alone.student.size.parameters == 16 * 8 + 8 + 8 * 3 + 3
    unfit = replace(students, others=("mlp:8", "vgg11"))
    with pytest.raises(UsageError, match="vgg11 cannot take inputs of 1x4x4"):
        prepare(replace(small(mlp_file), student=unfit), student=True)


def test_an_unknown_student_is_refused_before_the_teacher_is_opened(tmp_path: Path) -> None:
    config = small(tmp_path / "missing.onnx")
    for students in (StudentConfig("cnnn"), StudentConfig("cnn", others=("cnnn",))):
        with pytest.raises(UsageError, match="there is no student 'cnnn', did you mean 'cnn'"):
            prepare(replace(config, student=students), student=True)


def test_an_estimate_grows_with_the_work(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only steps move, a millisecond each: what a busy machine takes is not under test."""
    clock, take = [0.0], PlainStep.__call__

    def counted(step: PlainStep, walk: Walk) -> None:
        clock[0] += 1e-3
        take(step, walk)

    monkeypatch.setattr(PlainStep, "__call__", counted)
    monkeypatch.setattr("cake_cli.estimating.time.perf_counter", lambda: clock[0])
    once = estimate(prepared)
    assert set(once.seconds) == {"synthesis", "training"}
    more = replace(prepared.config, synthesis=replace(prepared.config.synthesis, steps=4000))
    longer = estimate(replace(prepared, config=more))
    assert longer.seconds["synthesis"] > 20 * once.seconds["synthesis"]
    assert once.disk > 60 * 4 * 16


@pytest.mark.parametrize(
    "asked",
    [
        {"contrastive": "snn"},
        {"contrastive": "triplet"},
        {"entropy_weight": 1.0},
        {"gradients": "estimated"},
        {"method": "cake"},
    ],
)
def test_sets_that_stay_whole_are_timed_whole(
    mlp_file: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, object]
) -> None:
    """Several sets go side by side, but memory holds only one in a pass, as of large images."""
    monkeypatch.setattr("cake_cli.methods.VALUES_PER_PASS", 30 * 16)
    config = small(mlp_file)
    asked = {"samples": 300, "sets_at_once": 5, **asked}
    prepared = prepare(replace(config, synthesis=replace(config.synthesis, **asked)), student=False)  # type: ignore[arg-type]
    assert prepared.plan.at_once * prepared.plan.set_size == 150
    assert estimate(prepared).seconds["synthesis"] > 0


def test_a_student_that_cannot_take_the_input_is_refused_before_anything(mlp_file: Path) -> None:
    config = small(mlp_file)
    with pytest.raises(UsageError, match="lenet5 takes images of 28 to 36 pixels"):
        prepare(replace(config, student=StudentConfig("lenet5")), student=True)


def test_too_full_a_disk_is_said_before_the_start(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cake_cli.estimating.free_disk", lambda path: 1000)
    with pytest.raises(EnvironmentFault, match="would write") as caught:
        require_room(prepared, Estimate({}, disk=5000, memory=0), tmp_path / "out")
    assert "--samples 6" in str(caught.value.fix)


def test_too_little_memory_is_said_before_the_start(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cake_cli.estimating.available_memory", lambda: 1000)
    with pytest.raises(EnvironmentFault, match="would hold"):
        require_room(prepared, Estimate({}, disk=0, memory=5000), tmp_path)


def test_naive_is_cross_entropy_alone_and_noise_takes_no_step(prepared: Prepared) -> None:
    assert prepared.teacher is not None
    engines = {
        method: build_engine(
            replace(prepared.config.synthesis, method=method),
            prepared.teacher,
            prepared.plan,
            seed=0,
            hardware=prepared.hardware,
        )
        for method in ("cake", "naive", "noise")
    }
    assert list(engines["cake"].objective.terms) == ["cls", "contrastive"]
    assert list(engines["cake"].objective.priors) == ["tv"]
    assert list(engines["naive"].objective.terms) == ["cls"]
    assert engines["noise"].steps == 0
    assert engines["cake"].rows_per_pass % prepared.plan.groups == 0


def test_what_a_stopped_run_wrote_counts_as_room(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cake_cli.estimating.free_disk", lambda path: 1000)
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "shard").write_bytes(bytes(4500))
    require_room(prepared, Estimate({}, disk=5000, memory=0), tmp_path)


# --- what follows from the cost -----------------------------------------------------------------------------------


def test_a_begun_bank_keeps_its_plan(prepared: Prepared, tmp_path: Path) -> None:
    assert prepared.teacher is not None
    begun = replace(prepared.plan, sets=9, at_once=3, spread=True)
    SampleBank.create(tmp_path / "bank", prepared.teacher, begun, seed=0, settings={}, budget=60.0)
    hurried = replace(prepared.config, synthesis=replace(prepared.config.synthesis, time_budget="1m"))
    settled, _ = settle(replace(prepared, config=hurried), tmp_path / "bank", Ranks())
    assert settled.plan == begun


def test_waves_of_a_hurried_bank_are_short(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds hold nine sets here: one at a time, so that the end cuts off little."""
    monkeypatch.setattr("cake_cli.estimating._synthesis_seconds", lambda prepared, teacher: 1.0 * prepared.plan.sets)
    settings = replace(prepared.config.synthesis, time_budget="10s", samples=None)
    hurried = replace(prepared, config=replace(prepared.config, synthesis=settings))
    settled, cost = settle(hurried, tmp_path, Ranks())
    assert (settled.plan.sets, settled.plan.at_once, cost.seconds["synthesis"]) == (9, 1, 9.0)
    longer = replace(settings, time_budget="1h")
    settled, _ = settle(replace(prepared, config=replace(prepared.config, synthesis=longer)), tmp_path, Ranks())
    assert (settled.plan.sets, settled.plan.at_once) == (3240, prepared.plan.at_once)
    longest = replace(settings, time_budget="999999h")
    settled, _ = settle(replace(prepared, config=replace(prepared.config, synthesis=longest)), tmp_path, Ranks())
    assert settled.plan.samples <= MOST_SAMPLES == 10**9


def test_ranks_share_the_work(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cake_cli.estimating._synthesis_seconds", lambda prepared, teacher: 1.0 * prepared.plan.sets)
    monkeypatch.setattr(Ranks, "gather", lambda ranks, value: [value, value, 2 * value])
    settings = replace(prepared.config.synthesis, time_budget="1m40s", samples=None)
    hurried = replace(prepared, config=replace(prepared.config, synthesis=settings))
    settled, cost = settle(hurried, tmp_path, Ranks(0, 3))
    assert settled.plan.sets == 225, "in a second two and a half sets are made"
    assert cost.seconds["synthesis"] == pytest.approx(90)


def test_a_probe_that_memory_does_not_hold_stops_at_fewer_rows(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    wave = Engine.wave

    def limited(engine: Engine, *arguments: object) -> object:
        if engine.plan.rows > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        return wave(engine, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "wave", limited)
    assert estimate(prepared).seconds["synthesis"] > 0


def test_a_scale_that_is_only_assumed_and_does_not_fit_is_doubted(mlp_file: Path, tmp_path: Path) -> None:
    model = onnx.load(mlp_file)
    first = next(one for one in model.graph.initializer if one.name == "w1")
    first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first) / 300, "w1"))
    onnx.save(model, tmp_path / "pixels.onnx")
    doubt = prepare(small(tmp_path / "pixels.onnx"), student=True).doubt
    assert "larger than those of N(0, 1)" in (doubt or "")
    assert prepare(small(mlp_file), student=True).doubt is None
