"""Bounds: where samples end, and the chain rule against autograd."""

from __future__ import annotations

import pytest
import torch

from cake_cli.spec import InputSpec
from cake_cli.synthesis.space import Anywhere, Clamped, Space, Squashed, normalised_range

IMAGE = InputSpec((3, 4, 5), (0.5, 0.4, 0.3), (0.25, 0.2, 0.5), (0.0, 1.0))
VECTOR = InputSpec((6,), (2.0,), (4.0,), (-10.0, 10.0))


def starts(spec: InputSpec, count: int = 8) -> torch.Tensor:
    return 3 * torch.randn(count, *spec.shape, generator=torch.Generator().manual_seed(0))


def test_the_range_is_the_raw_one_normalised() -> None:
    low, high = normalised_range(IMAGE)
    assert (low.shape, high.shape) == ((3, 1, 1), (3, 1, 1))
    torch.testing.assert_close(low.flatten(), torch.tensor([-2.0, -2.0, -0.6]))
    torch.testing.assert_close(high.flatten(), torch.tensor([2.0, 3.0, 1.4]))
    low, high = normalised_range(VECTOR)
    torch.testing.assert_close(low, torch.full((6,), -3.0))
    torch.testing.assert_close(high, torch.full((6,), 2.0))


def test_a_range_must_be_known() -> None:
    with pytest.raises(ValueError, match="no range"):
        normalised_range(InputSpec((6,), range=None))


@pytest.mark.parametrize("spec", [IMAGE, VECTOR], ids=["image", "vector"])
@pytest.mark.parametrize("kind", [Clamped, Squashed])
def test_inputs_stay_in_the_range(spec: InputSpec, kind: type[Clamped] | type[Squashed]) -> None:
    low, high = normalised_range(spec)
    space: Space = kind(low, high)
    positions, inputs = space.enter(starts(spec))
    for _ in range(3):
        assert bool(((inputs >= low) & (inputs <= high)).all())
        positions.add_(5 * torch.randn(positions.shape, generator=torch.Generator().manual_seed(1)))
        space.settle(positions, inputs)
    assert bool(((inputs >= low) & (inputs <= high)).all())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_chain_rule_is_autograds(layout: torch.memory_format) -> None:
    low, high = (bound.double() for bound in normalised_range(IMAGE))
    space = Squashed(low, high)
    positions, inputs = space.enter(starts(IMAGE).double().to(memory_format=layout))
    leaf = positions.clone().requires_grad_()
    middle, half = (low + high) / 2, (high - low) / 2
    made = middle + half * torch.tanh((leaf - middle) / half)
    torch.testing.assert_close(inputs, made.detach())
    weights = torch.randn(made.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (expected,) = torch.autograd.grad((made * weights).sum(), leaf)
    found = weights.clone()
    space.pull_back(inputs, found)
    torch.testing.assert_close(found, expected)


def test_the_middle_of_the_range_is_left_as_it_is() -> None:
    low, high = normalised_range(IMAGE)
    near = (low + high) / 2 + 1e-3
    _, inputs = Squashed(low, high).enter(near.expand(2, *IMAGE.shape).clone())
    torch.testing.assert_close(inputs, near.expand_as(inputs), rtol=0, atol=1e-6)


def test_anywhere_changes_nothing() -> None:
    given = starts(VECTOR)
    kept = given.clone()
    positions, inputs = Anywhere().enter(given)
    Anywhere().pull_back(inputs, positions)
    Anywhere().settle(positions, inputs)
    assert positions is inputs
    assert torch.equal(inputs, kept)
