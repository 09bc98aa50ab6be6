"""The terms that look beyond a sample against their definitions, sample by sample, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from cake_cli.config import CONTRASTIVE_WEIGHTS
from cake_cli.synthesis.contrastive import SoftNearestNeighbour, Triplet, contrastive_mse
from cake_cli.synthesis.terms import Candidates, Term, negative_entropy

SETS, ROWS, GROUPS, CLASSES = 2, 4, 3, 5
SIZE = ROWS * GROUPS
SETWISE = [SoftNearestNeighbour(), SoftNearestNeighbour(1.0), Triplet(), Triplet(0.0)]


def draw(seed: int = 0, *, sets: int = SETS, scale: float = 2.0) -> Candidates:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.cat([torch.randperm(CLASSES, generator=generator)[:GROUPS] for _ in range(sets * ROWS)])
    logits = scale * torch.randn(sets * SIZE, CLASSES, generator=generator, dtype=torch.float64)
    return Candidates(torch.zeros(len(targets), 1), logits, targets, GROUPS, SIZE)


def part(given: Candidates, index: int) -> Candidates:
    own = slice(index * SIZE, (index + 1) * SIZE)
    return Candidates(given.inputs[own], given.logits[own], given.targets[own], GROUPS, SIZE)


def gradient(term: Term, given: Candidates) -> torch.Tensor:
    leaf = given.logits.clone().requires_grad_()
    values = term(Candidates(given.inputs, leaf, given.targets, given.groups, given.set_size))
    return torch.autograd.grad(values.sum(), leaf)[0]


def squared(given: Candidates) -> list[list[float]]:
    return [[float(((a - b) ** 2).sum()) for b in given.logits] for a in given.logits]


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_soft_nearest_neighbours_by_hand(temperature: float) -> None:
    given = part(draw(), 0)
    distances, labels = squared(given), given.targets.tolist()
    heat = temperature * sum(map(sum, distances)) / (SIZE * (SIZE - 1))
    losses = []
    for i in range(SIZE):
        near = {j: math.exp(-distances[i][j] / heat) for j in range(SIZE) if j != i}
        of_class = [value for j, value in near.items() if labels[j] == labels[i]]
        if of_class:
            losses.append(-math.log(sum(of_class) / sum(near.values())))
    assert 0 < len(losses) <= SIZE
    expected = len(losses) / sum(losses)
    found = SoftNearestNeighbour(temperature)(given)
    torch.testing.assert_close(found, torch.full((SIZE,), expected, dtype=torch.float64))


def test_the_scale_of_soft_nearest_neighbours_is_not_followed() -> None:
    """Its gradient is that of the distances, with their mean held fixed."""
    given, temperature = part(draw(), 0), 0.1
    leaf = given.logits.clone().requires_grad_()
    distances = (leaf[:, None] - leaf[None]).square().sum(2)  # (N, N)
    off = ~torch.eye(SIZE, dtype=torch.bool)
    near = (-distances / (temperature * distances.detach().sum() / (SIZE * (SIZE - 1)))).exp()
    alike = (given.targets[:, None] == given.targets[None]) & off
    counted = alike.any(dim=1)
    losses = -((near * alike).sum(1)[counted] / (near * off).sum(1)[counted]).log()
    (wanted,) = torch.autograd.grad(SIZE / losses.mean(), leaf)
    torch.testing.assert_close(gradient(SoftNearestNeighbour(temperature), given), wanted)


def test_soft_nearest_neighbours_fall_where_classes_mix() -> None:
    given = draw()
    apart = given.logits + 20 * F.one_hot(given.targets, CLASSES)
    term = SoftNearestNeighbour()
    moved = Candidates(given.inputs, apart, given.targets, GROUPS, SIZE)
    assert float(term(moved).min()) > 10 * float(term(given).max())
    slope = (gradient(term, moved) * F.one_hot(given.targets, CLASSES)).sum()
    assert float(slope) > 0, "descending lowers the logits of the targets: classes are drawn together"


def test_soft_nearest_neighbours_do_not_depend_on_the_scale_of_logits() -> None:
    given = draw()
    louder = Candidates(given.inputs, 100 * given.logits, given.targets, GROUPS, SIZE)
    torch.testing.assert_close(SoftNearestNeighbour()(louder), SoftNearestNeighbour()(given))


@pytest.mark.parametrize("margin", [0.0, 1.0, 5.0])
def test_triplets_by_hand(margin: float) -> None:
    given = part(draw(), 1)
    distances, labels = squared(given), given.targets.tolist()
    expected = []
    for i in range(SIZE):
        first = i - i % GROUPS
        mates = [distances[i][j] / CLASSES for j in range(first, first + GROUPS) if j != i]
        own = [distances[i][j] / CLASSES for j in range(SIZE) if j != i and labels[j] == labels[i]]
        hinge = sum(mates) / len(mates) - sum(own) / len(own) + margin if own else 0.0
        expected.append(max(0.0, hinge))
    torch.testing.assert_close(Triplet(margin)(given), torch.tensor(expected, dtype=torch.float64))
    assert sum(expected) > 0


def test_triplets_draw_rows_together() -> None:
    given = draw()
    moved = given.logits - 0.01 * gradient(Triplet(), given)

    def spread(logits: torch.Tensor) -> float:
        return float(logits.reshape(-1, GROUPS, CLASSES).var(dim=1).mean())

    assert spread(moved) < spread(given.logits)


def test_negative_entropy_by_hand() -> None:
    given = draw()
    for index in range(SETS):
        mean = [float(column.mean()) for column in part(given, index).logits.softmax(dim=1).T]
        by_hand = sum(share * math.log(share) for share in mean)
        found = negative_entropy(given)[index * SIZE : (index + 1) * SIZE]
        assert found.tolist() == pytest.approx([by_hand] * SIZE)


def test_negative_entropy_is_least_where_all_classes_are_as_frequent() -> None:
    def value(classes: torch.Tensor) -> float:
        logits = 50 * F.one_hot(classes, 3).double()
        return float(negative_entropy(Candidates(torch.zeros(6, 1), logits, classes, 3, 6))[0])

    assert value(torch.tensor([0, 1, 2, 0, 1, 2])) == pytest.approx(-math.log(3))
    assert value(torch.tensor([0, 1, 0, 1, 0, 1])) == pytest.approx(-math.log(2))
    assert value(torch.zeros(6, dtype=torch.long)) == pytest.approx(0)
    logits = torch.tensor([[2.0, 0.0, 0.0]]).repeat(6, 1).double()
    one_sided = Candidates(torch.zeros(6, 1), logits, draw().targets[:6], 3, 6)
    down = -gradient(negative_entropy, one_sided)
    assert bool((down[:, 0] < 0).all() and (down[:, 1:] > 0).all()), "descent takes from the class that has too much"


@pytest.mark.parametrize("term", [*SETWISE, negative_entropy], ids=[*map(repr, SETWISE), "negative_entropy"])
def test_sets_do_not_see_each_other(term: Term) -> None:
    given = draw()
    torch.testing.assert_close(term(given), torch.cat([term(part(given, index)) for index in range(SETS)]))
    torch.testing.assert_close(gradient(term, given)[:SIZE], gradient(term, part(given, 0)))


@pytest.mark.parametrize("term", SETWISE, ids=repr)
def test_a_set_without_two_of_a_class_asks_for_nothing(term: Term) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    given = Candidates(torch.zeros(6, 1), logits, torch.arange(6), 3, 6)
    assert term(given).tolist() == [0.0] * 6
    assert gradient(term, given).abs().max() == 0


@pytest.mark.parametrize("term", [*SETWISE, negative_entropy], ids=[*map(repr, SETWISE), "negative_entropy"])
@pytest.mark.parametrize("logits", ["equal", "huge", "separated"])
def test_gradients_are_finite_at_the_extremes(term: Term, logits: str) -> None:
    given = draw()
    values = {
        "equal": torch.zeros_like(given.logits),
        "huge": 1e4 * given.logits,
        "separated": 1e3 * F.one_hot(given.targets, CLASSES).double(),
    }[logits]
    odd = Candidates(given.inputs, values.float(), given.targets, GROUPS, SIZE)
    assert bool(term(odd).isfinite().all())
    assert bool(gradient(term, odd).isfinite().all())


def test_default_weights_pull_alike_on_logits_drawn_without_data() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.cat([torch.randperm(10, generator=generator) for _ in range(100)])
    logits = 6.0 * F.one_hot(targets, 10) + 3.0 * torch.randn(1000, 10, generator=generator)
    given = Candidates(torch.zeros(1000, 1), logits, targets, 10, 100)
    terms = {"mse": contrastive_mse, "snn": SoftNearestNeighbour(), "triplet": Triplet()}
    pulls = {
        name: CONTRASTIVE_WEIGHTS[name] * float(gradient(term, given).norm(dim=1).mean())
        for name, term in terms.items()
    }
    assert pulls["snn"] == pytest.approx(pulls["mse"], rel=0.15)
    assert pulls["triplet"] == pytest.approx(pulls["mse"], rel=0.15)
