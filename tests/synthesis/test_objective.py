"""The terms against their definitions, pair by pair and pixel by pixel, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.spec import InputSpec
from cake_cli.synthesis.contrastive import contrastive_mse
from cake_cli.synthesis.objective import cake_objective
from cake_cli.synthesis.terms import Candidates, classification
from tests.reference import reference_weights

ROWS, GROUPS, CLASSES = 3, 4, 5
SHAPE = (2, 5, 6)


def candidates(seed: int = 0, *, shape: tuple[int, ...] = SHAPE) -> Candidates:
    generator = torch.Generator().manual_seed(seed)
    count = ROWS * GROUPS
    return Candidates(
        inputs=torch.randn(count, *shape, generator=generator, dtype=torch.float64),
        logits=torch.randn(count, CLASSES, generator=generator, dtype=torch.float64),
        targets=torch.cat([torch.randperm(CLASSES, generator=generator)[:GROUPS] for _ in range(ROWS)]),
        groups=GROUPS,
    )


def test_classification_is_cross_entropy_by_hand() -> None:
    given = candidates()
    by_hand = [-(row - row.exp().sum().log())[target] for row, target in zip(given.logits, given.targets, strict=True)]
    torch.testing.assert_close(classification(given), torch.stack(by_hand))


def test_contrastive_is_the_mean_over_all_ordered_pairs() -> None:
    given = candidates()
    rows = given.logits.reshape(ROWS, GROUPS, CLASSES)
    squares = [
        (row[g, k] - row[h, k]) ** 2
        for row in rows
        for g, h, k in itertools.product(range(GROUPS), range(GROUPS), range(CLASSES))
    ]
    paper = 0.5 * GROUPS**2 * torch.stack(squares).mean()
    ours = GROUPS**2 / (ROWS * GROUPS) * contrastive_mse(given).sum()
    torch.testing.assert_close(ours, paper)


def test_contrastive_is_the_variance_of_a_row() -> None:
    given = candidates()
    variance = given.logits.reshape(ROWS, GROUPS, CLASSES).var(dim=1, unbiased=False).mean(dim=1)  # (R,)
    torch.testing.assert_close(contrastive_mse(given).reshape(ROWS, GROUPS).mean(dim=1), variance)


def test_contrastive_does_not_cross_rows() -> None:
    given = candidates()
    moved = given.logits.clone()
    moved[:GROUPS] += 7.0 * torch.randn(GROUPS, CLASSES, dtype=torch.float64)
    after = contrastive_mse(Candidates(given.inputs, moved, given.targets, GROUPS))
    torch.testing.assert_close(after[GROUPS:], contrastive_mse(given)[GROUPS:])
    assert not torch.allclose(after[:GROUPS], contrastive_mse(given)[:GROUPS])


def test_vectors_have_no_total_variation() -> None:
    assert "tv" not in cake_objective(InputSpec((7,), range=None), cls=1.0, contrastive=1.0, tv=1.0).priors
    assert "tv" in cake_objective(InputSpec((1, 7, 7)), cls=1.0, contrastive=1.0, tv=1.0).priors


def test_terms_of_weight_zero_are_left_out() -> None:
    assert list(cake_objective(InputSpec(SHAPE), cls=1.0, contrastive=0.0, tv=0.0).terms) == ["cls"]


PRESETS = {
    "default": (1e1, 1e3, 1e5, 100, 10),
    "mnist": (1e-3, 1e3, 1e7, 500, 10),
    "cifar": (1e1, 1e3, 1e5, 500, 10),
    "toy": (1e-3, 1e-2, 0.0, 100, 2),
}


def reference_loss(
    inputs: Tensor, logits: Tensor, targets: Tensor, groups: int, contr: float, cls: float, tv: float
) -> Tensor:
    """The reference's reductions as `method.md` of the project states them: means over the whole set."""
    rows = logits.reshape(-1, groups, logits.shape[1])
    pairs = (rows.unsqueeze(1) - rows.unsqueeze(2)).square().mean()
    vertical = inputs.diff(dim=2).abs().mean(dim=(2, 3))
    horizontal = inputs.diff(dim=3).abs().mean(dim=(2, 3))
    return (
        cls * groups * F.cross_entropy(logits, targets)
        + contr * 0.5 * groups**2 * pairs
        + tv * (vertical + horizontal).mean()
    )


@pytest.mark.parametrize("name", PRESETS)
def test_presets_of_the_reference_give_the_same_gradient(name: str) -> None:
    contr, cls, tv, set_size, groups = PRESETS[name]
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(set_size, 1, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(16, 10, generator=generator, dtype=torch.float64)
    targets = torch.cat([torch.randperm(10, generator=generator)[:groups] for _ in range(set_size // groups)])
    logits = torch.tanh(inputs.flatten(1) @ weights)
    paper = reference_loss(inputs, logits, targets, groups, contr, cls, tv)
    (expected,) = torch.autograd.grad(paper, inputs, retain_graph=True)
    own = reference_weights(contr=contr, cls=cls, tv=tv, set_size=set_size, groups=groups)
    objective = cake_objective(InputSpec((1, 4, 4)), cls=own[0], contrastive=own[1], tv=own[2])
    total, _ = objective(Candidates(inputs, logits, targets, groups))
    (gradient,) = torch.autograd.grad(total.sum(), inputs)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_set_size_does_not_change_the_gradient_of_a_sample() -> None:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(40, 1, 4, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(16, CLASSES, generator=generator, dtype=torch.float64)
    targets = torch.cat([torch.randperm(CLASSES, generator=generator)[:GROUPS] for _ in range(10)])
    objective = cake_objective(InputSpec((1, 4, 4)), cls=20.0, contrastive=2.0, tv=200.0)

    def gradient(count: int) -> Tensor:
        leaf = inputs[:count].clone().requires_grad_()
        total, _ = objective(Candidates(leaf, torch.tanh(leaf.flatten(1) @ weights), targets[:count], GROUPS))
        return torch.autograd.grad(total.sum(), leaf)[0]

    torch.testing.assert_close(gradient(40)[:8], gradient(8))
