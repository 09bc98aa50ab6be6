"""Agreement, and when a student is said to know its samples by heart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cake_cli.distillation.feeding import Labelled
from cake_cli.distillation.fidelity import (
    _student_t,
    agreement_of,
    balanced_agreement,
    clear_fall,
    known_by_heart,
    measure_agreement,
    row_agreement,
)
from cake_cli.hardware import Hardware


def test_agreement_is_the_share_of_equal_choices(cpu: Hardware):
    rows = torch.eye(3).repeat(700, 1)
    logits = rows.clone()
    logits[:525] = logits[:525].roll(1, 1)
    student = nn.Identity().train()
    assert measure_agreement(student, Labelled(rows, logits), cpu) == pytest.approx(0.75)
    assert not student.training


def test_agreement_of_each_row(cpu: Hardware):
    rows = torch.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3]]
    logits = rows.clone()
    logits[[1, 4, 5, 6]] = logits[[1, 4, 5, 6]].roll(1, 1)
    found = row_agreement(nn.Identity(), Labelled(rows, logits, group=4, paired=8), cpu)
    assert found.tolist() == [0.75, 0.25]


def rows_of(mean: float, count: int) -> torch.Tensor:
    """Rows of ten samples, as different as chance makes them."""
    return torch.rand(count, 10, generator=torch.Generator().manual_seed(count)).lt(mean).double().mean(dim=1)


@pytest.mark.parametrize(
    ("learned", "heldout", "rows", "said"),
    [
        (0.97, 0.89, 40, False),  # less than a tenth: CAKE on digits, 8,000 samples, 30 epochs
        (0.99, 0.63, 10, True),
        (0.90, 0.70, 4, False),  # of so few it may be chance
        (0.90, 0.70, 300, True),
        (0.80, 0.90, 300, False),
        (0.95, 0.10, 3, False),
    ],
)
def test_overfitting_is_much_and_certain(learned: float, heldout: float, rows: int, said: bool):
    found = known_by_heart(rows_of(learned, 2 * rows), rows_of(heldout, rows))
    assert (found is not None) == said
    if found is not None:
        assert found == pytest.approx(learned - heldout, abs=0.1)


def test_rows_that_fail_as_one_are_not_many_samples():
    together = torch.tensor([1.0, 1, 0, 1, 0, 0, 1, 0, 1, 0]).double()
    assert known_by_heart(torch.full((20,), 0.9).double(), together) is None, "0.4 apart, of ten rows"
    assert known_by_heart(torch.full((20,), 0.9).double(), torch.full((10,), 0.5).double()) == pytest.approx(0.4)


@pytest.mark.parametrize(("freedom", "point"), [(3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)])
def test_students_t(freedom: float, point: float):
    assert _student_t(freedom) == pytest.approx(point, rel=0.01)


def test_an_interval_covers_as_often_as_it_says():
    """Rows whose samples are right or wrong together: 95 % intervals contain the truth in about 95 of 100 draws."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        chance = torch.rand(60, 1, generator=generator).lt(0.8).double() * 0.9 + 0.05  # of a row: 0.95 or 0.05
        rows = torch.rand(60, 10, generator=generator).lt(chance).double().mean(dim=1)
        found = agreement_of(rows, 10)
        covered += found.low <= 0.8 * 0.95 + 0.2 * 0.05 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_interval_is_honest_at_the_ends(share: float):
    found = agreement_of(torch.full((20,), share, dtype=torch.float64), 10)
    assert (found.value, found.samples) == (share, 200)
    assert 0.01 < found.high - found.low < 0.03
    assert 0 <= found.low <= share <= found.high <= 1


def test_agreement_is_told_with_its_interval():
    assert agreement_of(torch.tensor([0.9, 1.0, 0.8, 0.9]), 10).describe() == "90.0% (76.9% to 96.0%)"


def test_a_clear_fall_is_one_beyond_chance():
    before = rows_of(0.9, 200)
    assert clear_fall(before, before) is None
    assert clear_fall(before, (before - 0.1).clamp_min(0)) == pytest.approx(0.1, abs=0.01)
    assert clear_fall(before[:3], before[:3] - 0.5) is None, "of three rows nothing is said"
    assert clear_fall(before, rows_of(0.895, 201)[:200]) is None
    assert clear_fall(before - 0.1, before) is None, "a rise"


def test_rare_classes_count_as_much_as_frequent_ones() -> None:
    classes = torch.tensor([0] * 900 + [1] * 100 + [3] * 50)
    agreed = torch.cat([torch.ones(900), torch.zeros(100), torch.tensor([1.0, 0.0] * 25)])
    found = balanced_agreement(agreed, classes)
    assert found.value == pytest.approx((1 + 0 + 0.5) / 3), "the second is not there"
    assert found.samples == 1050
    assert found.low < found.value < found.high


def test_the_interval_of_a_balanced_agreement_holds_what_it_says() -> None:
    """Of 500 draws with known shares about 95 % hold their mean."""
    generator = torch.Generator().manual_seed(0)
    shares, classes = torch.tensor([0.95, 0.6, 0.3]), torch.tensor([0] * 400 + [1] * 100 + [2] * 30)
    held = 0
    for _ in range(500):
        agreed = (torch.rand(530, generator=generator) < shares[classes]).double()
        found = balanced_agreement(agreed, classes)
        held += found.low <= float(shares.mean()) <= found.high
    assert 460 <= held <= 495


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_an_interval_of_all_or_nothing_is_within_bounds(right: float) -> None:
    found = balanced_agreement(torch.full((3,), right), torch.tensor([0, 0, 1]))
    assert found.value == right
    assert 0 <= found.low < found.high <= 1


def test_answers_that_are_not_finite_agree_with_nothing(cpu: Hardware) -> None:
    """The first class is the most probable one of NaN, and the teacher's."""
    samples = Labelled(torch.zeros(4, 1), torch.tensor([[1.0, 0.0]]).repeat(4, 1))
    lost = nn.Linear(1, 2)
    nn.init.constant_(lost.bias, float("nan"))
    assert measure_agreement(lost, samples, cpu) == 0.0
