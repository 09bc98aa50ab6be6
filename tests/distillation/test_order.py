"""The order of an epoch: everything once, the same everywhere, windows for what is too large."""

from __future__ import annotations

import pytest
import torch

from cake_cli.distillation import order as module
from cake_cli.distillation.order import Grain, Order, in_turn, share_of, shuffled, with_partners

FINE = Grain(window=1_000_000, block=100)
COARSE = Grain(window=60, block=12)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("grain", [FINE, COARSE])
def test_every_sample_once_and_whole_batches(grain: Grain):
    order = shuffled(203, 10, grain, stream())
    assert len(order.index) == 200
    assert len(order.index.unique()) == 200
    assert order.bounds[-1] == 200
    assert not torch.equal(order.index, order.index.sort().values)


def test_what_fits_a_window_is_one_permutation():
    expected = torch.randperm(50, generator=stream(3))
    order = shuffled(50, 7, FINE, stream(3))
    assert order.bounds == (49,)
    assert torch.equal(order.index, expected[:49])


def test_a_window_is_made_of_whole_blocks_from_everywhere():
    order = shuffled(1200, 10, COARSE, stream())
    assert order.bounds == tuple(range(60, 1201, 60))
    seen = set()
    for start, end in zip((0, *order.bounds), order.bounds, strict=False):
        blocks, counts = (order.index[start:end] // 12).unique(return_counts=True)
        assert counts.tolist() == [12] * 5
        assert not seen & set(blocks.tolist())
        seen |= set(blocks.tolist())
    first = (order.index[:60] // 12).unique()
    assert int(first.max() - first.min()) > 20


def test_epochs_differ_and_seeds_repeat():
    again = [shuffled(1200, 10, COARSE, stream(seed)).index for seed in (0, 0, 1)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])


def test_the_grain_is_of_the_samples_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "WINDOW_BYTES", 10_000)
    monkeypatch.setattr(module, "BLOCK_BYTES", 1_000)
    assert Grain.of(30, 10) == Grain(window=330, block=30)
    assert Grain.of(5_000, 10) == Grain(window=10, block=10), "rows stay whole, however large"


def test_in_turn_leaves_nothing_out():
    order = in_turn(125, 50, Grain(window=60, block=12))
    assert order.index.tolist() == list(range(125))
    assert order.bounds == (100, 125)


def test_partners_are_others_of_the_row():
    order = with_partners(shuffled(200, 10, FINE, stream()), 5, 150, stream(1))
    assert order.partners is not None
    mixed = order.index < 150
    assert torch.equal(order.partners // 5, order.index // 5)
    assert (order.partners != order.index)[mixed].all()
    assert torch.equal(order.partners[~mixed], order.index[~mixed])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_every_batch(world: int):
    whole = with_partners(shuffled(1205, 10, COARSE, stream()), 4, 1204, stream(1))
    parts = [share_of(whole, rank, world) for rank in range(world)]
    for step in range(120):
        own = [part.index[step * part.batch : (step + 1) * part.batch] for part in parts]
        assert torch.cat(own).sort().values.equal(whole.index[10 * step : 10 * (step + 1)].sort().values)
    for rank, part in enumerate(parts):
        assert part.partners is not None
        inside = zip((0, *whole.bounds), whole.bounds, (0, *part.bounds), part.bounds, strict=False)
        for first, last, own_first, own_last in inside:
            window = set(whole.index[first:last].tolist())
            assert set(part.index[own_first:own_last].tolist()) <= window, rank
        assert part.bounds[-1] == len(part.index)


def test_only_whole_batches_are_shared():
    with pytest.raises(ValueError, match="whole batches"):
        share_of(Order(torch.arange(15), (15,), 10), 0, 2)
