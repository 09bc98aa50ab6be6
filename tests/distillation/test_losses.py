"""What is minimised, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.distillation.losses import (
    class_weights,
    distillation_loss,
    hard_cross_entropy,
    kl_divergence,
    logit_matching,
    soft_cross_entropy,
    with_true_labels,
)


def logits(*, seed: int, count: int = 5) -> Tensor:
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


STUDENT, TEACHER = logits(seed=0), logits(seed=1)


def test_soft_cross_entropy_by_hand():
    by_hand = -((TEACHER / 2).softmax(1) * (STUDENT / 2).log_softmax(1)).sum(1) * 4
    torch.testing.assert_close(soft_cross_entropy(STUDENT, TEACHER, temperature=2.0), by_hand)


def test_kl_divergence_by_hand():
    target = (TEACHER / 3).softmax(1)
    by_hand = (target * (target.log() - (STUDENT / 3).log_softmax(1))).sum(1) * 9
    torch.testing.assert_close(kl_divergence(STUDENT, TEACHER, temperature=3.0), by_hand)
    torch.testing.assert_close(kl_divergence(TEACHER, TEACHER), torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_and_cross_entropy_pull_alike(temperature: float):
    student = STUDENT.clone().requires_grad_()
    both = [
        torch.autograd.grad(loss(student, TEACHER, temperature=temperature).sum(), student)[0]
        for loss in (soft_cross_entropy, kl_divergence)
    ]
    torch.testing.assert_close(both[0], both[1])


def test_logit_matching_is_what_kl_comes_to_when_hot():
    torch.testing.assert_close(logit_matching(STUDENT, TEACHER), ((STUDENT - TEACHER) ** 2).sum(1) / (2 * 4))
    centred = [values - values.mean(1, keepdim=True) for values in (STUDENT, TEACHER)]
    torch.testing.assert_close(kl_divergence(*centred, temperature=1e4), logit_matching(*centred), rtol=1e-3, atol=1e-5)


def test_hard_cross_entropy_takes_the_teachers_choice():
    by_hand = F.cross_entropy(STUDENT, TEACHER.argmax(1), reduction="none")
    torch.testing.assert_close(hard_cross_entropy(STUDENT, TEACHER), by_hand)


def test_hintons_sum_sample_by_sample():
    labels = torch.tensor([0, -1, 2, -1, 3])
    soft = soft_cross_entropy(STUDENT, TEACHER, temperature=4.0)
    found = with_true_labels(soft, STUDENT, labels, 0.3)
    for row, label in enumerate(labels.tolist()):
        expected = soft[row]
        if label >= 0:
            expected = 0.3 * -STUDENT[row].log_softmax(0)[label] + 0.7 * soft[row]
        torch.testing.assert_close(found[row], expected)


def test_the_ends_of_lambda():
    labels = torch.tensor([0, 1, 2, 3, 0])
    soft = soft_cross_entropy(STUDENT, TEACHER)
    torch.testing.assert_close(with_true_labels(soft, STUDENT, labels, 0.0), soft)
    hard = F.cross_entropy(STUDENT, labels, reduction="none")
    torch.testing.assert_close(with_true_labels(soft, STUDENT, labels, 1.0), hard)


def test_the_loss_that_is_asked_for():
    assert distillation_loss("hard", 1.0) is hard_cross_entropy
    assert distillation_loss("soft", 1.0, "logits") is logit_matching
    for name, loss in (("ce", soft_cross_entropy), ("kl", kl_divergence)):
        made = distillation_loss("soft", 4.0, name)  # type: ignore[arg-type]
        torch.testing.assert_close(made(STUDENT, TEACHER), loss(STUDENT, TEACHER, temperature=4.0))


@pytest.mark.parametrize(("power", "wanted"), [(0, [1, 1, 1]), (1, [2, 2 / 3, 2]), (0.5, [1.464, 0.845, 1.464])])
def test_rare_classes_count_for_more(power: float, wanted: list[float]):
    counts = torch.tensor([10, 30, 0])
    weights = class_weights(counts, power)
    assert weights.tolist() == pytest.approx(wanted, abs=1e-3)
    assert float((weights * counts).sum()) / 40 == pytest.approx(1), "the loss keeps its scale"


def test_whatever_the_power_weights_are_numbers():
    weights = class_weights(torch.tensor([9_000, 10_000, 11_000, 0]), 100)
    assert weights.tolist() == pytest.approx([30_000 / 9_000, 0, 0, 30_000 / 9_000], abs=1e-3)
