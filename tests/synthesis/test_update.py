from __future__ import annotations

import pytest
import torch

from cake_cli.synthesis.update import Adam, Normalised, Sgd, Update


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_adam_is_torchs(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 2, 4, 4, generator=generator).to(memory_format=layout)
    theirs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.05)
    ours, rule = start.clone(), Adam()
    state = rule.begin(ours)
    for _ in range(7):
        slope = torch.randn(start.shape, generator=generator).to(memory_format=layout)
        theirs.grad = slope.clone()
        optimizer.step()
        rule.apply(ours, slope, torch.full((3, 1, 1, 1), 0.05), state)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_adam_has_the_step_size_of_each_sample() -> None:
    rows, rule = torch.zeros(2, 5), Adam()
    rule.apply(
        rows, torch.tensor([[1.0], [-30.0]]).expand(2, 5).clone(), torch.tensor([[0.1], [0.001]]), rule.begin(rows)
    )
    torch.testing.assert_close(rows, torch.tensor([[-0.1], [0.001]]).expand(2, 5))


def test_normalised_steps_have_the_length_of_the_step_size_whatever_the_gradient() -> None:
    start = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    slope = torch.randn(start.shape, generator=torch.Generator().manual_seed(1))
    slope *= torch.tensor([1e-6, 1.0, 1e6, 0.0]).reshape(-1, 1, 1, 1)
    sizes, rows, rule = torch.tensor([0.1, 0.2, 0.05, 0.1]).reshape(-1, 1, 1, 1), start.clone(), Normalised()
    rule.apply(rows, slope.clone(), sizes, rule.begin(rows))
    moved = (rows - start).flatten(1)
    torch.testing.assert_close(moved.square().mean(1).sqrt(), torch.tensor([0.1, 0.2, 0.05, 0.0]), rtol=1e-4, atol=1e-6)
    against = torch.nn.functional.cosine_similarity(moved[:3], slope[:3].flatten(1))
    torch.testing.assert_close(against, -torch.ones(3), rtol=1e-4, atol=1e-4)


def test_a_gradient_too_short_for_its_squares_moves_nothing_far() -> None:
    slope = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    slope *= torch.tensor([1e-12, 1e-15, 1e-19, 1e-22, 1e-25, 1e-40]).reshape(-1, 1, 1, 1)
    rows, rule = torch.zeros_like(slope), Normalised()
    rule.apply(rows, slope.clone(), torch.full((6, 1, 1, 1), 0.3), rule.begin(rows))
    lengths = rows.square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(lengths, torch.tensor([0.3, 0.3, 0.0, 0.0, 0.0, 0.0]))


@pytest.mark.parametrize("rule", [Sgd(0.01), Normalised(0.01), Adam(0.01)], ids=repr)
def test_a_step_is_bounded(rule: Update) -> None:
    rows = torch.zeros(3, 2, 4, 4)
    slope = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1e-6, 1.0, 1e6]
    ).reshape(-1, 1, 1, 1)
    rule.apply(rows, slope, torch.full((3, 1, 1, 1), 0.5), rule.begin(rows))
    size = rows.square().mean(dim=(1, 2, 3)).sqrt()
    assert float(size.max()) <= 0.01 * (1 + 1e-5)
    assert float(size[2]) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("rule", [Sgd(), Adam()], ids=repr)
def test_a_zero_gradient_moves_nothing(rule: Update) -> None:
    rows = torch.ones(2, 3)
    rule.apply(rows, torch.zeros(2, 3), torch.ones(2, 1), rule.begin(rows))
    assert torch.equal(rows, torch.ones(2, 3))


def test_state_begins_with_zeros() -> None:
    state = Adam().begin(torch.randn(2, 3))
    assert all(not bool(tensor.any()) for tensor in state.values())
