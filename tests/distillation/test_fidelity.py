"""Agreement, and when a student is said to know its samples by heart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cake_cli.distillation.feeding import Labelled
from cake_cli.distillation.fidelity import known_by_heart, measure_agreement
from cake_cli.hardware import Hardware


def test_agreement_is_the_share_of_equal_choices(cpu: Hardware):
    rows = torch.eye(3).repeat(700, 1)
    logits = rows.clone()
    logits[:525] = logits[:525].roll(1, 1)
    student = nn.Identity().train()
    assert measure_agreement(student, Labelled(rows, logits), cpu) == pytest.approx(0.75)
    assert not student.training


@pytest.mark.parametrize(
    ("learned", "heldout", "said"),
    [
        ((0.97, 400), (0.88, 400), None),  # less than a tenth: CAKE on digits, 8,000 samples, 30 epochs
        ((0.99, 50), (0.73, 50), pytest.approx(0.26)),  # 1,000 samples, 100 epochs
        ((0.90, 30), (0.70, 30), None),  # of so few it may be chance
        ((0.90, 3000), (0.70, 3000), pytest.approx(0.20)),
        ((0.80, 3000), (0.90, 3000), None),
    ],
)
def test_overfitting_is_much_and_certain(learned: tuple[float, int], heldout: tuple[float, int], said: object):
    assert known_by_heart(learned, heldout) == said
