from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cake_cli.errors import RunError, UsageError
from cake_cli.events import SILENT
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.synthesis.engine import Engine, Passes, Wave
from cake_cli.synthesis.noise import step_size
from cake_cli.synthesis.objective import cake_objective
from cake_cli.synthesis.samples import Samples
from cake_cli.synthesis.sets import SetPlan, plan_sets
from cake_cli.synthesis.terms import Candidates
from cake_cli.synthesis.update import Sgd

STAGE = SILENT.stage("", 1, "")


def make_engine(teacher: Classifier, cpu: Hardware, **changes: object) -> Engine:
    plan = SetPlan(sets=6, rows=2, groups=4, at_once=3)
    sizes = tuple(step_size(s, 6, first=0.1, decades=2.0, schedule="linear") for s in range(6))
    engine = Engine(
        teacher=teacher,
        objective=cake_objective(teacher.spec, cls=5.0, contrastive=0.5, tv=1.0),
        plan=plan,
        step_sizes=sizes,
        steps=12,
        langevin=False,
        seed=0,
        hardware=cpu,
        rows_per_pass=24,
    )
    return replace(engine, **changes)


def waves(engine: Engine) -> list[Wave]:
    return [engine.wave(sets, STAGE) for sets in engine.plan.waves]


def joined(engine: Engine) -> Samples:
    return Samples.join([wave.samples for wave in waves(engine)])


def test_samples_reach_their_targets_and_labels_are_the_teachers(toy_teacher: Classifier, cpu: Hardware) -> None:
    samples = joined(make_engine(toy_teacher, cpu, steps=60, step_sizes=(0.1,) * 6))
    assert samples.inputs.shape == (48, 1, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(samples.logits, toy_teacher(samples.inputs))
    start = joined(make_engine(toy_teacher, cpu, steps=0))
    on_target = (samples.logits.argmax(1) == samples.targets).float().mean()
    by_chance = (start.logits.argmax(1) == samples.targets).float().mean()
    assert on_target > by_chance + 0.3


def test_the_step_is_plain_sgd_on_the_objective(toy_teacher: Classifier, cpu: Hardware) -> None:
    objective = cake_objective(toy_teacher.spec, cls=5.0, contrastive=0.5, tv=3.0)
    engine = make_engine(toy_teacher, cpu, steps=1, objective=objective)
    before, after = joined(replace(engine, steps=0)), joined(engine)
    leaf = before.inputs.clone().requires_grad_()
    total, _ = engine.objective(Candidates(leaf, toy_teacher(leaf), after.targets, 4))
    (gradient,) = torch.autograd.grad(total.sum(), leaf)
    expected = before.inputs - after.step_sizes.reshape(-1, 1, 1, 1) * gradient
    torch.testing.assert_close(after.inputs, expected)


def test_step_sizes_differ_from_set_to_set(toy_teacher: Classifier, cpu: Hardware) -> None:
    samples = joined(make_engine(toy_teacher, cpu))
    assert samples.step_sizes.reshape(6, 8).unique(dim=1).shape == (6, 1)
    assert len(samples.step_sizes.unique()) == 6


def test_a_repeated_run_is_bit_identical(toy_teacher: Classifier, cpu: Hardware) -> None:
    first, second = (joined(make_engine(toy_teacher, cpu, langevin=True)) for _ in range(2))
    assert torch.equal(first.inputs, second.inputs)
    assert torch.equal(first.logits, second.logits)


@pytest.mark.parametrize("langevin", [False, True])
def test_sets_side_by_side_change_nothing_but_rounding(toy_teacher: Classifier, cpu: Hardware, langevin: bool) -> None:
    engine = make_engine(toy_teacher, cpu, langevin=langevin)
    alone = replace(engine, plan=replace(engine.plan, at_once=1))
    torch.testing.assert_close(joined(engine).inputs, joined(alone).inputs, rtol=1e-4, atol=1e-4)
    assert torch.equal(joined(engine).targets, joined(alone).targets)


def test_a_pass_in_parts_changes_nothing_but_rounding(toy_teacher: Classifier, cpu: Hardware) -> None:
    engine = make_engine(toy_teacher, cpu)
    parts = replace(engine, rows_per_pass=4)
    torch.testing.assert_close(joined(engine).inputs, joined(parts).inputs, rtol=1e-4, atol=1e-4)


def test_waves_do_not_depend_on_those_before(toy_teacher: Classifier, cpu: Hardware) -> None:
    engine = make_engine(toy_teacher, cpu, langevin=True)
    second = engine.wave(engine.plan.waves[1], STAGE)
    assert torch.equal(second.samples.inputs, waves(engine)[1].samples.inputs)


def test_langevin_disperses(toy_teacher: Classifier, cpu: Hardware) -> None:
    quiet, noisy = (joined(make_engine(toy_teacher, cpu, langevin=langevin)) for langevin in (False, True))
    assert not torch.allclose(quiet.inputs, noisy.inputs, atol=0.05)


def test_max_update_bounds_each_step(toy_teacher: Classifier, cpu: Hardware) -> None:
    engine = make_engine(toy_teacher, cpu, steps=1, update=Sgd(0.01))
    moved = joined(engine).inputs - joined(replace(engine, steps=0)).inputs
    size = moved.flatten(1).square().mean(dim=1).sqrt()
    assert float(size.max()) <= 0.01 * (1 + 1e-4)
    free = joined(replace(engine, update=Sgd())).inputs - joined(replace(engine, steps=0)).inputs
    same = free.flatten(1).square().mean(dim=1).sqrt() < 0.01
    torch.testing.assert_close(moved[same], free[same])
    assert float(torch.cosine_similarity(moved.flatten(1), free.flatten(1)).min()) > 0.9999


def test_teacher_passes_are_counted(toy_teacher: Classifier, cpu: Hardware) -> None:
    total = sum((wave.passes for wave in waves(make_engine(toy_teacher, cpu))), Passes())
    assert total == Passes(forward=48 * 13, backward=48 * 12)
    noise = sum((wave.passes for wave in waves(make_engine(toy_teacher, cpu, steps=0))), Passes())
    assert noise == Passes(forward=48, backward=0)


def test_noise_is_only_labelled(toy_teacher: Classifier, cpu: Hardware) -> None:
    samples = joined(make_engine(toy_teacher, cpu, steps=0))
    assert abs(float(samples.inputs.mean())) < 0.1
    assert float(samples.inputs.std()) == pytest.approx(1.0, abs=0.1)
    assert set(samples.targets.tolist()) == {-1}


def test_a_diverging_objective_names_its_step(toy_teacher: Classifier, cpu: Hardware) -> None:
    steep = cake_objective(toy_teacher.spec, cls=1e6, contrastive=0.0, tv=0.0)
    engine = make_engine(toy_teacher, cpu, step_sizes=(1e38,) * 6, objective=steep)
    with pytest.raises(RunError, match=r"not finite at step \d+ ") as caught:
        engine.wave(engine.plan.waves[0], STAGE)
    assert caught.value.fix is not None
    assert "step_size" in caught.value.fix


def test_plan_rounds_samples_up_to_whole_sets() -> None:
    plan = plan_sets(samples=1001, classes=10)
    assert (plan.sets, plan.set_size, plan.groups, plan.samples) == (11, 100, 10, 1100)
    assert [len(wave) for wave in plan.waves] == [5, 5, 1]


@pytest.mark.parametrize(("classes", "groups", "size"), [(2, 2, 100), (3, 3, 99), (7, 7, 98), (1000, 10, 100)])
def test_plan_fits_the_number_of_classes(classes: int, groups: int, size: int) -> None:
    plan = plan_sets(samples=500, classes=classes)
    assert (plan.groups, plan.set_size) == (groups, size)


def test_plan_refuses_what_cannot_be_drawn() -> None:
    with pytest.raises(UsageError, match="cannot be drawn from 4"):
        plan_sets(samples=100, classes=4, groups=5)
    with pytest.raises(UsageError, match="cannot be cut into rows of 4"):
        plan_sets(samples=100, classes=4, groups=4, set_size=10)
