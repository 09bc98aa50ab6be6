"""Each prior against its definition, pixel by pixel, and its gradient against autograd, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from cake_cli.synthesis.priors import Prior, TotalVariation

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


@pytest.mark.parametrize("prior", [TotalVariation()], ids=lambda prior: type(prior).__name__)
@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 6), (3, 4, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_in_closed_form_are_those_of_autograd(
    prior: Prior, shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    inputs = images(shape=shape).to(memory_format=layout).requires_grad_()
    (expected,) = torch.autograd.grad(3.0 * prior.value(inputs).sum(), inputs)
    found = torch.ones_like(inputs)
    prior.add_gradient(inputs.detach(), 3.0, found)
    torch.testing.assert_close(found, 1 + expected)
