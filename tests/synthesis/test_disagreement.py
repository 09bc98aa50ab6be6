"""The term that draws samples to where teacher and student differ: its value, its gradient, and what it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cake_cli.events import SILENT
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.synthesis.disagreement import Disagreement
from cake_cli.synthesis.engine import Engine, Passes
from cake_cli.synthesis.objective import cake_objective
from cake_cli.synthesis.sets import SetPlan
from cake_cli.synthesis.terms import Candidates

STAGE = SILENT.stage("", 1, "")


def linear(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(6, 4).double().requires_grad_(False)


def candidates(inputs: Tensor, teacher: nn.Module) -> Candidates:
    return Candidates(inputs, teacher(inputs), torch.zeros(len(inputs), dtype=torch.int64), groups=2)


def probabilities(network: nn.Linear, row: Tensor) -> Tensor:
    exponentials = (network.weight @ row + network.bias).exp()
    return exponentials / exponentials.sum()


def test_value_and_gradient_are_those_by_hand(cpu: Hardware):
    teacher, student = linear(0), linear(1)
    inputs = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    value = Disagreement(student, cpu)(candidates(inputs, teacher))
    (gradient,) = torch.autograd.grad(value.sum(), inputs)
    for number, row in enumerate(inputs.detach()):
        taught, learned = probabilities(teacher, row), probabilities(student, row)
        assert value[number].item() == pytest.approx(-float((taught - learned).abs().sum()), rel=1e-9)
        sign = (taught - learned).sign()
        by_hand = torch.zeros(6, dtype=torch.float64)
        for network, own, side in ((teacher, taught, 1), (student, learned, -1)):
            jacobian = (own.diag() - own.outer(own)) @ network.weight  # (K, D): of the softmax of logits
            by_hand -= side * (sign @ jacobian)
        torch.testing.assert_close(gradient[number], by_hand, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_it_is_bounded_however_far_apart_they_are(cpu: Hardware, scale: float):
    teacher, student = linear(0), linear(1)
    inputs = (scale * torch.randn(50, 6, dtype=torch.float64)).requires_grad_()
    value = Disagreement(student, cpu)(candidates(inputs, teacher))
    (gradient,) = torch.autograd.grad(value.sum(), inputs)
    assert value.min().item() >= -2
    assert value.max().item() <= 0
    assert bool(gradient.isfinite().all())
    longest = 2 * max(float(torch.linalg.matrix_norm(network.weight, 2)) for network in (teacher, student))
    assert float(gradient.norm(dim=1).max()) <= longest, (
        "a softmax's Jacobian has at most norm 1/2, the signs sqrt(K) = 2"
    )


def test_equal_models_differ_nowhere(cpu: Hardware):
    teacher = linear(0)
    inputs = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    value = Disagreement(teacher, cpu)(candidates(inputs, teacher))
    assert value.abs().max() < 1e-6
    (gradient,) = torch.autograd.grad(value.sum(), inputs)
    assert gradient.abs().max() < 1e-6


# --- in the engine ------------------------------------------------------------------------------------------------


def engine(teacher: Classifier, cpu: Hardware, student: nn.Module | None, weight: float = 50.0) -> Engine:
    objective = cake_objective(teacher.spec, cls=1.0, contrastive=0.1, tv=0.0)
    if student is not None:
        objective = objective.against(Disagreement(student, cpu), weight)
    plan = SetPlan(sets=4, rows=5, groups=4, at_once=2)
    return Engine(
        teacher=teacher, objective=objective, plan=plan, step_sizes=(0.01,) * 4, steps=20, langevin=False, seed=0,
        hardware=cpu, rows_per_pass=40,
    )  # fmt: skip


@pytest.fixture
def student(toy_teacher: Classifier) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval().requires_grad_(False)


def distance(teacher: Classifier, student: nn.Module, inputs: Tensor) -> float:
    return float((teacher(inputs).softmax(1) - student(inputs).softmax(1)).abs().sum(1).mean())


def test_samples_move_to_where_they_differ(toy_teacher: Classifier, cpu: Hardware, student: nn.Module):
    sets = range(2)
    without = engine(toy_teacher, cpu, None).wave(sets, STAGE)
    against = engine(toy_teacher, cpu, student).wave(sets, STAGE)
    distances = [distance(toy_teacher, student, wave.samples.inputs) for wave in (without, against)]
    assert distances[1] > distances[0] + 0.2
    assert against.terms["disagreement"] == pytest.approx(-distances[1], abs=0.05), "before the last step"


def test_passes_of_the_student_are_counted(toy_teacher: Classifier, cpu: Hardware, student: nn.Module):
    without = engine(toy_teacher, cpu, None).wave(range(2), STAGE)
    against = engine(toy_teacher, cpu, student).wave(range(2), STAGE)
    assert without.passes == against.passes == Passes(forward=40 * 21, backward=40 * 20)
    assert without.student_passes == Passes()
    assert against.student_passes == Passes(forward=40 * 20, backward=40 * 20)


def test_a_set_is_the_same_in_another_wave(toy_teacher: Classifier, cpu: Hardware, student: nn.Module):
    made = engine(toy_teacher, cpu, student)
    alone = replace(made, plan=replace(made.plan, at_once=1))
    together = made.wave(range(2), STAGE).samples.inputs[20:]
    torch.testing.assert_close(alone.wave(range(1, 2), STAGE).samples.inputs, together)


def test_weight_zero_is_no_term(toy_teacher: Classifier, cpu: Hardware, student: nn.Module):
    assert not engine(toy_teacher, cpu, student, weight=0.0).objective.asks_student
