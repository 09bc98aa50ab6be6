"""Each prior against its definition, pixel by pixel, and its gradient against autograd, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from cake_cli.synthesis.priors import IsotropicTotalVariation, MeanSquare, OutOfRange, Prior, TotalVariation

SHAPE = (2, 5, 6)


def images(*, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(12, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_total_variation_by_hand() -> None:
    channels, height, width = SHAPE
    by_hand = []
    for image in images():
        down = [
            abs(image[c, i + 1, j] - image[c, i, j])
            for c, i, j in itertools.product(range(channels), range(height - 1), range(width))
        ]
        right = [
            abs(image[c, i, j + 1] - image[c, i, j])
            for c, i, j in itertools.product(range(channels), range(height), range(width - 1))
        ]
        by_hand.append(torch.stack(down).mean() + torch.stack(right).mean())
    torch.testing.assert_close(TotalVariation().value(images()), torch.stack(by_hand))


@pytest.mark.parametrize(("shape", "axes"), [((1, 1, 1), 0), ((1, 1, 6), 1), ((1, 5, 1), 1)])
def test_total_variation_of_thin_images(shape: tuple[int, ...], axes: int) -> None:
    value = TotalVariation().value(images(shape=shape))
    assert value.shape == (12,)
    assert bool((value > 0).all()) == (axes > 0)


def test_isotropic_total_variation_by_hand() -> None:
    channels, height, width = SHAPE
    by_hand = []
    for image in images():
        lengths = []
        for c, i, j in itertools.product(range(channels), range(height), range(width)):
            down = float(image[c, i + 1, j] - image[c, i, j]) if i + 1 < height else 0.0
            right = float(image[c, i, j + 1] - image[c, i, j]) if j + 1 < width else 0.0
            lengths.append(math.hypot(down, right))
        by_hand.append(sum(lengths) / len(lengths))
    expected = torch.tensor(by_hand, dtype=torch.float64)
    torch.testing.assert_close(IsotropicTotalVariation().value(images()), expected)


def test_isotropic_total_variation_does_not_favour_an_axis() -> None:
    axis = torch.arange(64, dtype=torch.float64)
    across = (axis[:, None] + 0 * axis < 31.5).double()
    slanted = (axis[:, None] + axis < 63.5).double()

    def ratio(prior: Prior) -> float:
        straight, diagonal = prior.value(torch.stack([across, slanted]).unsqueeze(1)).tolist()
        return diagonal / straight

    assert ratio(TotalVariation()) == pytest.approx(2.0, rel=0.05)
    assert ratio(IsotropicTotalVariation()) == pytest.approx(math.sqrt(2), rel=0.05), (
        "the slanted edge is as much longer"
    )


def test_the_gradient_of_a_flat_image_is_zero() -> None:
    flat = torch.ones(2, 1, 5, 5)
    found = torch.zeros_like(flat)
    IsotropicTotalVariation().add_gradient(flat, 3.0, found)
    assert not bool(found.any())


def test_mean_square_and_range_by_hand() -> None:
    rows = torch.tensor([[0.5, -2.0, 3.0, 0.0]])
    assert float(MeanSquare().value(rows)) == pytest.approx((0.25 + 4 + 9) / 4)
    bounds = OutOfRange(torch.full((4,), -1.0), torch.full((4,), 2.5))
    assert float(bounds.value(rows)) == pytest.approx((1.0 + 0.25) / 4)


LOW, HIGH = (torch.tensor(value, dtype=torch.float64) for value in (-0.5, 0.75))
IMAGE_PRIORS = [TotalVariation(), IsotropicTotalVariation()]
PRIORS = [*IMAGE_PRIORS, MeanSquare(), OutOfRange(LOW, HIGH)]


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 6), (3, 4, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_in_closed_form_are_those_of_autograd(
    prior: Prior, shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    check_gradient(prior, images(shape=shape).to(memory_format=layout))


@pytest.mark.parametrize("prior", [MeanSquare(), OutOfRange(LOW, HIGH)], ids=lambda prior: type(prior).__name__)
def test_gradients_for_vectors(prior: Prior) -> None:
    check_gradient(prior, images(shape=(7,)))


def check_gradient(prior: Prior, inputs: Tensor) -> None:
    inputs.requires_grad_()
    (expected,) = torch.autograd.grad(3.0 * prior.value(inputs).sum(), inputs)
    found = torch.ones_like(inputs)
    prior.add_gradient(inputs.detach(), 3.0, found)
    torch.testing.assert_close(found, 1 + expected)
