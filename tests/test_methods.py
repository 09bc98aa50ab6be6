"""Settings to what is minimised, where and how; and the combinations that make no sense, each with its sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from cake_cli.config import SynthesisConfig
from cake_cli.errors import UsageError
from cake_cli.events import SILENT
from cake_cli.hardware import Hardware
from cake_cli.methods import baseline_engine, build_engine, check_choices, objective_of, resolved, space_of, update_of
from cake_cli.models.classifier import Classifier
from cake_cli.spec import InputSpec
from cake_cli.synthesis.contrastive import SoftNearestNeighbour, Triplet, contrastive_mse
from cake_cli.synthesis.engine import Wave
from cake_cli.synthesis.priors import IsotropicTotalVariation, TotalVariation
from cake_cli.synthesis.samples import Samples
from cake_cli.synthesis.sets import SetPlan
from cake_cli.synthesis.space import Anywhere, Clamped, Squashed, normalised_range
from cake_cli.synthesis.terms import negative_entropy
from cake_cli.synthesis.update import Adam, Normalised, Sgd, Update

KNOWN = InputSpec((1, 4, 4), (0.5,), (0.25,), (0.0, 1.0), source="--mean and --std")
VECTOR = InputSpec((16,), range=None)
PLAN = SetPlan(sets=4, rows=2, groups=4, at_once=2)
STAGE = SILENT.stage("", 1, "")


@pytest.fixture
def teacher(toy_teacher: Classifier) -> Classifier:
    return replace(toy_teacher, spec=KNOWN)


def samples(settings: SynthesisConfig, teacher: Classifier, cpu: Hardware, plan: SetPlan = PLAN) -> Samples:
    engine = build_engine(settings, teacher, plan, seed=0, hardware=cpu)
    return Samples.join([engine.wave(sets, STAGE).samples for sets in plan.waves])


# --- what the settings mean ---------------------------------------------------------------------------------------


def test_the_default_is_the_papers_objective_with_its_weights(teacher: Classifier, cpu: Hardware) -> None:
    found = objective_of(SynthesisConfig(), teacher, cpu)
    assert found.weights == {"cls": 20.0, "contrastive": 2.0, "tv": 200.0}
    assert found.terms["contrastive"][1] is contrastive_mse
    assert isinstance(found.priors["tv"][1], TotalVariation)
    assert (found.whole_sets, found.layers) == (False, ())


def test_every_choice_arrives(teacher: Classifier, cpu: Hardware) -> None:
    settings = SynthesisConfig(
        contrastive="snn", snn_temperature=0.3, tv="isotropic", tv_weight=7.0, l2_weight=1.0, range_weight=2.0
    )
    found = objective_of(settings, teacher, cpu)
    assert found.weights == {"cls": 20.0, "contrastive": 15.0, "tv": 7.0, "l2": 1.0, "range": 2.0}
    assert found.terms["contrastive"][1] == SoftNearestNeighbour(0.3)
    assert isinstance(found.priors["tv"][1], IsotropicTotalVariation)
    assert found.whole_sets
    triplet = objective_of(SynthesisConfig(contrastive="triplet", triplet_margin=3.0), teacher, cpu)
    assert triplet.terms["contrastive"] == (1.5, Triplet(3.0))
    balanced = objective_of(SynthesisConfig(entropy_weight=5.0), teacher, cpu)
    assert (balanced.terms["entropy"], balanced.whole_sets) == ((5.0, negative_entropy), True)
    assert update_of(SynthesisConfig(optimizer="adam", max_update=0.1), KNOWN) == Adam(0.1)
    assert update_of(SynthesisConfig(optimizer="sgd"), KNOWN) == Sgd(0.3)
    assert build_engine(SynthesisConfig(redraws=3), teacher, PLAN, seed=0, hardware=cpu).redraws == 3
    spaces = {name: space_of(SynthesisConfig(bounds=name), KNOWN, cpu) for name in ("none", "clamp", "reparametrise")}
    assert [type(space) for space in spaces.values()] == [Anywhere, Clamped, Squashed]


@pytest.mark.parametrize(
    ("changes", "update", "step_sizes"),
    [
        ({}, Normalised(0.3), (0.3, 0.5)),
        ({"step_size": 0.2}, Normalised(0.3), (0.2, 0.5)),
        ({"noise": "both"}, Sgd(0.3), (0.1, 4.0)),
        ({"noise": "none"}, Normalised(0.3), (0.3, 0.5)),
        ({"optimizer": "sgd"}, Sgd(0.3), (0.1, 4.0)),
        ({"optimizer": "adam", "step_size_decades": 3.0}, Adam(0.3), (0.1, 3.0)),
    ],
)
def test_images_move_by_steps_of_a_given_length_and_vectors_by_the_gradient(
    changes: dict[str, object], update: Update, step_sizes: tuple[float, float]
) -> None:
    settings = SynthesisConfig(**changes)  # type: ignore[arg-type]
    assert update_of(settings, KNOWN) == update
    assert settings.step_sizes_for(images=True) == step_sizes
    if settings.optimizer is None:
        assert update_of(settings, VECTOR) == Sgd(0.3)


def test_images_of_a_known_range_stay_within_it(cpu: Hardware) -> None:
    unknown = InputSpec((1, 4, 4))
    assert isinstance(space_of(SynthesisConfig(), KNOWN, cpu), Clamped)
    for settings, spec in ((None, unknown), (None, VECTOR), ("none", KNOWN)):
        assert isinstance(space_of(SynthesisConfig(bounds=settings), spec, cpu), Anywhere)  # type: ignore[arg-type]
    check_choices(SynthesisConfig(), unknown, 4, SetPlan(1, 10, 4, 1))


def test_the_generator_has_the_priors_and_no_contrast(teacher: Classifier, cpu: Hardware) -> None:
    found = objective_of(SynthesisConfig(method="generative", l2_weight=1.0), teacher, cpu)
    assert found.priors["tv"][0] == 2.0, "a generator is trained to the end: with the weight of samples it is flat grey"
    assert objective_of(SynthesisConfig(), teacher, cpu).priors["tv"][0] == 200.0
    given = SynthesisConfig(method="generative", tv_weight=7.0)
    assert objective_of(given, teacher, cpu).priors["tv"][0] == 7.0
    assert set(found.weights) == {"cls", "tv", "l2"}


@pytest.mark.parametrize(
    ("noise", "langevin", "falls"),
    [("implicit", False, True), ("langevin", True, False), ("both", True, True), ("none", False, False)],
)
def test_kinds_of_noise(teacher: Classifier, cpu: Hardware, noise: str, langevin: bool, falls: bool) -> None:
    engine = build_engine(SynthesisConfig(noise=noise), teacher, PLAN, seed=0, hardware=cpu)
    assert engine.langevin == langevin
    assert (len(set(engine.step_sizes)) > 1) == falls


def test_noise_is_gaussian_and_smooth_noise_is_not(cpu: Hardware) -> None:
    torch.manual_seed(0)
    spec = replace(KNOWN, shape=(1, 16, 16))
    teacher = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(256, 4)), spec, 4, "t", "0" * 64)
    rough, smooth = (
        samples(SynthesisConfig(method=method), teacher, cpu).inputs.diff(dim=3).abs().mean()
        for method in ("noise", "smooth-noise")
    )
    assert float(smooth) < 0.75 * float(rough)


def test_the_floor_is_the_starting_points_of_the_run(teacher: Classifier, cpu: Hardware) -> None:
    smooth = samples(SynthesisConfig(method="smooth-noise"), teacher, cpu)
    for settings in (
        SynthesisConfig(steps=3),
        SynthesisConfig(method="generative", steps=3),
        SynthesisConfig(method="naive", steps=3),
    ):
        engine = baseline_engine(settings, teacher, PLAN, seed=0, hardware=cpu)
        floor = Samples.join([engine.wave(sets, STAGE).samples for sets in PLAN.waves])
        assert torch.equal(floor.inputs, smooth.inputs)
        assert set(floor.targets.tolist()) == {-1}
    clamped = baseline_engine(SynthesisConfig(bounds="clamp"), teacher, PLAN, seed=0, hardware=cpu)
    low, high = normalised_range(KNOWN)
    assert torch.equal(clamped.wave(PLAN.waves[0], STAGE).samples.inputs, smooth.inputs[:16].clamp(low, high))


@pytest.mark.parametrize("settings", [
    {"contrastive": "snn"}, {"contrastive": "triplet"}, {"optimizer": "adam"}, {"noise": "both", "optimizer": "adam"},
    {"bounds": "clamp", "noise": "langevin"}, {"bounds": "reparametrise", "noise": "both"}, {"tv": "isotropic"},
    {"l2_weight": 5.0, "range_weight": 5.0}, {"entropy_weight": 100.0}, {"method": "naive", "bounds": "reparametrise"},
], ids=str)  # fmt: skip
def test_choices_move_samples_alike_in_any_company(teacher: Classifier, cpu: Hardware, settings: dict) -> None:
    """Finite, the same again, and the same but for rounding with another number of sets side by side."""
    chosen = SynthesisConfig(steps=8, **settings)
    found = samples(chosen, teacher, cpu)
    assert torch.equal(found.inputs, samples(chosen, teacher, cpu).inputs)
    alone = samples(chosen, teacher, cpu, replace(PLAN, at_once=1))
    torch.testing.assert_close(found.inputs, alone.inputs, rtol=1e-3, atol=1e-3)
    starts = samples(SynthesisConfig(method="smooth-noise"), teacher, cpu)
    assert not torch.allclose(found.inputs, starts.inputs, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(found.logits, teacher(found.inputs))
    if chosen.bounds != "none":
        low, high = normalised_range(KNOWN)
        assert bool(((found.inputs >= low) & (found.inputs <= high)).all())


def test_whole_sets_go_through_the_teacher_in_one_piece(teacher: Classifier, cpu: Hardware) -> None:
    wide = replace(KNOWN, shape=(1, 400, 400))
    big = replace(teacher, spec=wide)
    plan = SetPlan(sets=4, rows=5, groups=4, at_once=4)
    rows, sets = (
        build_engine(SynthesisConfig(contrastive=kind), big, plan, seed=0, hardware=cpu).rows_per_pass
        for kind in ("mse", "snn")
    )
    assert (rows % 4, sets % 20) == (0, 0)
    assert rows < sets


def test_batchnorm_statistics_come_nearer(cpu: Hardware) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 4)
    ).requires_grad_(False)
    module[1].running_mean.fill_(0.7)
    teacher = Classifier(module.eval(), KNOWN, 4, "teacher", "0" * 64)

    def distance(settings: SynthesisConfig) -> float:
        inner = module[0](samples(settings, teacher, cpu).inputs)
        return float((inner.mean(dim=(0, 2, 3)) - 0.7).norm())

    plain = SynthesisConfig(steps=40, noise="none", step_size_decades=0.0, cls_weight=1.0, tv_weight=0.0)
    assert distance(replace(plain, batchnorm_weight=50.0)) < 0.5 * distance(plain)
    assert objective_of(replace(plain, batchnorm_weight=50.0), teacher, cpu).weights["batchnorm"] == 50.0


# --- what makes no sense ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"groups": 1}, "no pairs to contrast"),
        ({"contrastive": "snn", "groups": 5, "set_size": 5}, "a set of one row has no two of a class"),
        ({"method": "naive", "l2_weight": 1.0}, "without priors"),
        ({"method": "naive", "batchnorm_weight": 1.0}, "without priors"),
        ({"method": "noise", "init": "smooth"}, "labels normal starts, not smooth"),
        ({"method": "smooth-noise", "init": "normal"}, "labels scenes or exposed or smooth starts, not normal"),
        ({"method": "generative", "noise": "both"}, "no noise and no optimizer"),
        ({"method": "generative", "optimizer": "adam"}, "no noise and no optimizer"),
        ({"optimizer": "normalised", "noise": "both"}, "which normalised steps do not heed"),
        ({"method": "generative", "bounds": "clamp"}, "cannot learn where its output is clamped"),
        ({"cls_weight": 0.0, "contrastive_weight": 0.0}, "asks nothing of the teacher"),
        ({"method": "naive", "cls_weight": 0.0}, "asks nothing of the teacher"),
        ({"l2_weight": -1.0}, "cannot be negative"),
        ({"entropy_weight": -1.0}, "cannot be negative"),
        ({"curriculum": True, "rounds": 1}, "and there is none"),
        ({"curriculum": True, "disagreement": 0.0}, "and there is none"),
        ({"method": "naive", "entropy_weight": 1.0}, "without priors"),
        ({"snn_temperature": 0.0}, "snn_temperature"),
        ({"triplet_margin": -1.0}, "triplet_margin"),
        ({"redraws": -1}, "redraws"),
        ({"generator_lr": 0.0}, "generator_lr"),
    ],
    ids=str,
)
def test_choices_that_contradict_each_other(settings: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        SynthesisConfig(**settings)
    assert caught.value.fix


@pytest.mark.parametrize(
    "settings",
    [{"groups": 1, "contrastive_weight": 0.0}, {"method": "noise", "init": "normal"}, {"method": "naive", "groups": 1},
     {"cls_weight": 0.0}, {"method": "smooth-noise", "steps": 0}],
    ids=str,
)  # fmt: skip
def test_choices_that_are_odd_and_possible(settings: dict) -> None:
    SynthesisConfig(**settings)


def check(settings: dict, spec: InputSpec = KNOWN, classes: int = 4, plan: SetPlan = PLAN) -> None:
    check_choices(SynthesisConfig(**settings), spec, classes, plan)


@pytest.mark.parametrize(
    ("settings", "spec", "said"),
    [
        ({"tv_weight": 5.0}, VECTOR, "total variation is for images"),
        ({"method": "generative", "tv_weight": 5.0}, VECTOR, "total variation is for images"),
        ({"method": "smooth-noise"}, VECTOR, "noise of many scales are for images"),
        ({"init": "smooth"}, VECTOR, "noise of many scales are for images"),
        ({"bounds": "clamp"}, VECTOR, "bounds needs the range"),
        ({"bounds": "reparametrise"}, InputSpec((1, 4, 4)), "bounds needs the range"),
        ({"range_weight": 1.0}, VECTOR, "range_weight needs the range"),
        ({"step_size": 1.0}, KNOWN, "normalised steps of 1 would all be shortened to max_update, 0.3"),
        ({"optimizer": "normalised", "step_size": 0.5}, VECTOR, "normalised steps of 0.5 would all be shortened"),
    ],
    ids=str,
)
def test_choices_that_do_not_fit_the_input(settings: dict, spec: InputSpec, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        check(settings, spec)
    assert caught.value.fix


def test_sets_that_hold_too_few_of_a_class() -> None:
    with pytest.raises(UsageError, match="a set of 8 holds few of each of 9 classes") as caught:
        check({"contrastive": "triplet"}, classes=9)
    assert caught.value.fix == "--set synthesis.set_size=20"
    check({"contrastive": "triplet"}, classes=8)
    check({"contrastive": "mse"}, classes=9)


def test_vectors_have_their_choices() -> None:
    known = replace(VECTOR, range=(-1.0, 1.0), source="--input-range")
    check({}, VECTOR)
    check({"tv_weight": 0.0, "l2_weight": 1.0, "init": "normal"}, VECTOR)
    check({"bounds": "clamp", "range_weight": 1.0}, known)


def test_a_longer_step_has_a_longer_bound() -> None:
    check({"step_size": 1.0, "max_update": 1.0}, KNOWN)
    check({"step_size": 1.0, "max_update": 0.0}, KNOWN)
    check({"step_size": 1.0}, VECTOR)
    check({"step_size": 1.0, "optimizer": "sgd"}, KNOWN)


def test_batchnorm_is_refused_where_there_is_none(teacher: Classifier, cpu: Hardware) -> None:
    with pytest.raises(UsageError, match="has no BatchNorm layers"):
        objective_of(SynthesisConfig(batchnorm_weight=1.0), teacher, cpu)


def test_only_batchnorm_leaves_the_strict_contract() -> None:
    assert SynthesisConfig(batchnorm_weight=1.0).outside_contract == ("BatchNorm statistics",)
    everything = SynthesisConfig(contrastive="snn", l2_weight=1.0, range_weight=1.0, bounds="clamp", noise="both")
    assert everything.outside_contract == ()


def test_a_wave_is_what_the_report_counts(teacher: Classifier, cpu: Hardware) -> None:
    engine = build_engine(SynthesisConfig(steps=2), teacher, PLAN, seed=0, hardware=cpu)
    wave: Wave = engine.wave(PLAN.waves[0], STAGE)
    assert set(wave.terms) == {"cls", "contrastive", "tv"}


@pytest.mark.parametrize(
    ("settings", "spec", "asked"),
    [
        ({}, KNOWN, "smooth-noise"),
        ({}, VECTOR, "noise"),
        ({"init": "exposed"}, KNOWN, "smooth-noise"),
        ({"init": "normal"}, KNOWN, "noise"),
        ({"queries": 500}, KNOWN, "smooth-noise"),
        ({"gradients": "exact"}, KNOWN, "cake"),
        ({"gradients": "estimated"}, KNOWN, "cake"),
        ({"rounds": 4}, KNOWN, "cake"),
        ({"method": "naive"}, KNOWN, "naive"),
    ],
    ids=str,
)
def test_a_teacher_without_a_gradient_is_asked_where_nothing_is_said(
    teacher: Classifier, settings: dict, spec: InputSpec, asked: str
) -> None:
    silent = replace(teacher, spec=spec, no_gradient="it is asked")
    assert resolved(SynthesisConfig(**settings), silent).method == asked


def test_a_teacher_with_a_gradient_is_followed_and_has_no_limit_of_queries(teacher: Classifier) -> None:
    assert resolved(SynthesisConfig(), teacher).method == "cake"
    with pytest.raises(UsageError, match="--queries limits"):
        resolved(SynthesisConfig(queries=500), teacher)
