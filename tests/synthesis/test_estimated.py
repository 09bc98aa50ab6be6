"""Estimated gradients: against exact ones, and counted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cake_cli.config import SynthesisConfig, TeacherConfig
from cake_cli.errors import NoGradient, UsageError
from cake_cli.events import SILENT
from cake_cli.hardware import Hardware
from cake_cli.methods import build_engine, passes_of, require_gradient, within_queries
from cake_cli.models.classifier import Classifier
from cake_cli.spec import InputSpec
from cake_cli.synthesis.disagreement import Disagreement
from cake_cli.synthesis.engine import Engine, Passes
from cake_cli.synthesis.estimated import Estimator, cosines
from cake_cli.synthesis.noise import stream
from cake_cli.synthesis.sets import plan_sets

SETTINGS = SynthesisConfig(samples=24, steps=3, gradients="estimated", directions=4, set_size=12, groups=4)


def exact(teacher: Classifier, rows: torch.Tensor, pull: torch.Tensor) -> torch.Tensor:
    leaf = rows.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((teacher(leaf) * pull).sum(), leaf)
    return gradient


def likeness(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(F.cosine_similarity(found.flatten(1), wanted.flatten(1)).mean())


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def pull() -> torch.Tensor:
    return torch.randn(20, 4, generator=torch.Generator().manual_seed(2))


def streams(count: int, seed: int = 0) -> list[torch.Generator]:
    return [stream(seed, index, "directions") for index in range(count)]


def test_the_estimate_is_the_better_the_more_directions(
    toy_teacher: Classifier, rows: torch.Tensor, pull: torch.Tensor
) -> None:
    wanted = exact(toy_teacher, rows, pull)
    found = [
        likeness(Estimator((1, 4, 4), count, 0.01).gradient(toy_teacher, rows, pull, streams(2)), wanted)
        for count in (1, 4, 8, 16)
    ]
    assert found == sorted(found)
    assert found[0] < 0.5
    assert found[1] == pytest.approx(math.sqrt(4 / 16), abs=0.12), "of D of d directions, the root of D / d"
    assert found[-1] > 0.999, "with as many directions as dimensions"


def test_the_estimate_is_unbiased(toy_teacher: Classifier, rows: torch.Tensor, pull: torch.Tensor) -> None:
    wanted = exact(toy_teacher, rows, pull)
    estimator = Estimator((1, 4, 4), 2, 0.01)
    own = streams(2)
    total = sum(estimator.gradient(toy_teacher, rows, pull, own) for _ in range(400)) / 400
    assert likeness(total, wanted) > 0.97
    assert float(total.norm() / wanted.norm()) == pytest.approx(1.0, abs=0.06)


def test_low_frequencies_estimate_the_part_of_the_gradient_that_they_span(
    toy_teacher: Classifier, rows: torch.Tensor, pull: torch.Tensor
) -> None:
    estimator = Estimator((1, 4, 4), 99, 0.01, frequencies=2)
    assert (estimator.dimensions, estimator.used, estimator.queries) == (4, 4, 9)
    waves = cosines(4, 2)
    assert torch.allclose(waves.T @ waves, torch.eye(2), atol=1e-6)
    span = waves @ waves.T
    wanted = span @ exact(toy_teacher, rows, pull) @ span
    found = estimator.gradient(toy_teacher, rows, pull, streams(1))
    assert torch.allclose(found, wanted, atol=2e-3)


def test_directions_are_orthonormal_and_their_own_for_each_row() -> None:
    drawn = Estimator((30,), 5, 0.1).draw(3, streams(1)[0])
    assert drawn.shape == (3, 5, 30)
    assert torch.allclose(drawn @ drawn.transpose(1, 2), torch.eye(5).expand(3, -1, -1), atol=1e-5)
    assert not torch.allclose(drawn[0], drawn[1])


class Counting(torch.nn.Module):
    """A teacher without a gradient that counts what it is asked."""

    def __init__(self, teacher: Classifier) -> None:
        super().__init__()
        self.teacher, self.rows = teacher, 0

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.rows += len(rows)
        with torch.no_grad():
            return self.teacher(rows)


def counting(teacher: Classifier) -> tuple[Counting, Classifier]:
    module = Counting(teacher)
    return module, replace(teacher, module=module, no_gradient="it is asked")


def engine_of(settings: SynthesisConfig, teacher: Classifier, cpu: Hardware, samples: int = 24) -> Engine:
    plan = plan_sets(samples=samples, classes=4, groups=settings.groups, set_size=settings.set_size, at_once=1)
    return build_engine(settings, teacher, plan, seed=0, hardware=cpu)


@pytest.mark.parametrize("terms", [{}, {"contrastive": "snn"}, {"optimizer": "adam", "noise": "both"}], ids=str)
def test_every_query_is_counted(toy_teacher: Classifier, cpu: Hardware, terms: dict) -> None:
    settings = replace(SETTINGS, **terms)
    asked, teacher = counting(toy_teacher)
    engine = engine_of(settings, teacher, cpu)
    waves = [engine.wave(sets, SILENT.stage("", 1, "")) for sets in engine.plan.waves]
    passes = sum((wave.passes for wave in waves), Passes())
    assert passes == Passes(forward=24 * (3 * 9 + 1)) == passes_of(settings, teacher.spec, 24)
    assert asked.rows == passes.forward
    assert not any(bool(wave.redrawn.any()) for wave in waves)


def test_with_all_directions_samples_come_out_as_with_the_teachers_gradient(
    toy_teacher: Classifier, cpu: Hardware
) -> None:
    settings = replace(SETTINGS, directions=16, smoothing=0.003)
    _, teacher = counting(toy_teacher)
    silent = SILENT.stage("", 1, "")
    found = engine_of(settings, teacher, cpu).wave(range(1), silent).samples.inputs
    wanted = engine_of(replace(settings, gradients="auto"), toy_teacher, cpu).wave(range(1), silent).samples.inputs
    assert float((found - wanted).norm() / wanted.norm()) < 0.01


def test_the_students_own_gradient_is_added_to_what_is_estimated(toy_teacher: Classifier, cpu: Hardware) -> None:
    """So that rounds against a teacher of outputs alone pull as rounds against any other."""
    settings = replace(SETTINGS, directions=16, smoothing=0.003, optimizer="sgd", tv_weight=0.0)
    torch.manual_seed(7)
    against = Disagreement(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval().requires_grad_(False), cpu)

    def made(settings: SynthesisConfig, teacher: Classifier) -> torch.Tensor:
        engine = engine_of(settings, teacher, cpu)
        engine = replace(engine, objective=engine.objective.against(against, 20.0))
        return engine.wave(range(1), SILENT.stage("", 1, "")).samples.inputs

    wanted = made(replace(settings, gradients="auto"), toy_teacher)
    found = made(settings, counting(toy_teacher)[1])
    assert float((found - wanted).norm() / wanted.norm()) < 0.01


def test_a_set_is_the_same_in_whatever_wave_it_is_made(toy_teacher: Classifier, cpu: Hardware) -> None:
    engine = engine_of(SETTINGS, toy_teacher, cpu)
    silent = SILENT.stage("", 1, "")
    both = engine.wave(range(2), silent).samples.inputs
    alone = engine.wave(range(1, 2), silent).samples.inputs
    assert torch.allclose(both[12:], alone, atol=1e-5)
    fewer = replace(engine, rows_per_pass=12).wave(range(2), silent).samples.inputs
    assert torch.allclose(both, fewer, atol=1e-5)


def test_without_directions_only_the_rest_of_the_objective_moves_samples(
    toy_teacher: Classifier, cpu: Hardware
) -> None:
    asked, teacher = counting(toy_teacher)
    wave = engine_of(replace(SETTINGS, directions=0), teacher, cpu).wave(range(1), SILENT.stage("", 1, ""))
    assert asked.rows == wave.passes.forward == 12 * 4


SPEC = InputSpec((1, 4, 4))


def test_a_budget_pays_for_samples_or_for_steps() -> None:
    plenty = replace(SETTINGS, queries=10_000)
    assert within_queries(replace(plenty, samples=None), SPEC, 12).samples == 348  # 29 sets of 336
    assert within_queries(plenty, SPEC, 12) == plenty
    few = within_queries(replace(plenty, queries=500), SPEC, 12)
    assert (few.samples, few.steps) == (24, 2)
    assert passes_of(few, SPEC, 24).forward == 456
    asked = SynthesisConfig(method="smooth-noise", queries=1000, samples=None)
    assert within_queries(asked, SPEC, 100).samples == 1000
    assert within_queries(replace(asked, samples=250), SPEC, 100).samples == 300
    assert within_queries(replace(asked, samples=5000), SPEC, 100).samples == 1000


@pytest.mark.parametrize("budget", range(240, 1500, 37))
def test_as_many_steps_are_taken_as_a_budget_pays_for_and_no_more(budget: int) -> None:
    found = within_queries(replace(SETTINGS, queries=budget, steps=100), SPEC, 12)
    one_more = replace(found, steps=found.steps + 1)
    assert passes_of(found, SPEC, 24).forward <= budget < passes_of(one_more, SPEC, 24).forward


@pytest.mark.parametrize(
    "settings",
    [
        replace(SETTINGS, queries=200),
        replace(SETTINGS, queries=300, samples=None),
        SynthesisConfig(method="noise", queries=5),
    ],
)
def test_a_budget_that_pays_for_nothing_is_refused(settings: SynthesisConfig) -> None:
    with pytest.raises(UsageError, match="--queries is") as caught:
        within_queries(settings, SPEC, 12)
    enough = int(caught.value.fix.split()[1].strip(","))
    assert within_queries(replace(settings, queries=enough), SPEC, 12).queries == enough


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method": "generative"}, "generative"),
        ({"batchnorm_weight": 1.0}, "BatchNorm"),
        ({"method": "cake", "gradients": "auto", "queries": 5}, "--queries limits"),
        ({"queries": 0}, "positive"),
        ({"smoothing": 0.0}, "smoothing"),
        ({"directions": -1}, "directions"),
    ],
    ids=str,
)
def test_what_cannot_be_estimated_is_refused(more: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        replace(SETTINGS, **more)


def test_a_teacher_without_a_gradient_asks_for_the_flag(toy_teacher: Classifier) -> None:
    _, teacher = counting(toy_teacher)
    with pytest.raises(NoGradient, match=r"toy\.onnx has no gradient") as caught:
        require_gradient(SynthesisConfig(), teacher)
    assert "--gradients estimated" in caught.value.fix
    assert "--method smooth-noise" in caught.value.fix
    require_gradient(SynthesisConfig(method="smooth-noise"), teacher)
    require_gradient(SETTINGS, teacher)
    with pytest.raises(NoGradient):
        require_gradient(SynthesisConfig(method="smooth-noise", gradients="exact"), teacher)
    labels = replace(teacher, output_kind="labels")
    with pytest.raises(UsageError, match="move nowhere"):
        require_gradient(SETTINGS, labels)
    with pytest.raises(NoGradient) as caught:
        require_gradient(SynthesisConfig(), labels)
    assert "--gradients estimated" not in caught.value.fix


def test_the_token_is_never_on_the_command_line() -> None:
    with pytest.raises(UsageError, match="not the token"):
        TeacherConfig(token_env="sk-12345")
