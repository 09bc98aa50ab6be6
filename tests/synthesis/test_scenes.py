"""Starting points that have what pictures have."""

from __future__ import annotations

import pytest
import torch

from cake_cli.synthesis import scenes
from cake_cli.synthesis.noise import draw_start, stream
from cake_cli.synthesis.scenes import _stripes, in_colour

BOUNDS = (torch.zeros(1, 1, 1), torch.ones(1, 1, 1))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 12), (2, 1, 1), (5, 16, 16)])
def test_they_lie_within_the_range_and_are_the_same_again(shape: tuple[int, ...]) -> None:
    low, high = torch.linspace(-2.0, -0.5, shape[0])[:, None, None], torch.full((shape[0], 1, 1), 3.0)
    rows = draw_start(shape, 301, stream(0, 0, "start"), "scenes", (low, high))
    assert rows.shape == (301, *shape)
    assert bool((rows >= low).all() & (rows <= high + 1e-5).all())
    assert bool(rows.isfinite().all())
    assert torch.equal(rows, draw_start(shape, 301, stream(0, 0, "start"), "scenes", (low, high)))
    assert not torch.equal(rows, draw_start(shape, 301, stream(0, 1, "start"), "scenes", (low, high)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_are_drawn_too(count: int) -> None:
    assert draw_start((1, 8, 8), count, stream(0, 0, "start"), "scenes", BOUNDS).shape == (count, 1, 8, 8)


def test_large_pictures_are_drawn_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that memory does not grow with their number: as many come, and none is another's copy."""
    drawn: list[int] = []
    original = scenes._leaves
    monkeypatch.setattr(scenes, "_leaves", lambda *given: drawn.append(len(given[0])) or original(*given))
    rows = draw_start((3, 160, 160), 60, stream(0, 0, "start"), "scenes", (torch.zeros(3, 1, 1), torch.ones(3, 1, 1)))
    assert rows.shape == (60, 3, 160, 160)
    assert drawn == [6, 6, 6, 2]
    assert len(rows.flatten(1).unique(dim=0)) == 60


def test_a_third_has_two_tones_and_edges() -> None:
    """Strokes are one colour before another: most of their pixels are within a hair of one of two values."""
    rows = draw_start((1, 32, 32), 300, stream(0, 0, "start"), "scenes", BOUNDS).flatten(1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    near = (rows - low < 0.05) | (high - rows < 0.05)
    inside = (low.flatten() > 0) & (high.flatten() < 1)  # not cut off at the range, as exposed noise is
    assert int((near.float().mean(1)[inside] > 0.8).sum()) > 40


def test_they_have_edges() -> None:
    """Where edges are, neighbours are equal or far apart: few differences carry most of the variation."""

    def peakedness(init: str) -> float:
        rows = draw_start((1, 32, 32), 600, stream(0, 0, "start"), init, BOUNDS)  # type: ignore[arg-type]
        steps = rows.diff(dim=3).flatten(1)
        fourth, second = steps.pow(4).mean(1), steps.square().mean(1)
        return float((fourth / second.square().clamp_min(1e-12))[second > 1e-6].median())

    assert peakedness("scenes") > 2 * peakedness("smooth")


@pytest.mark.parametrize("size", [8, 28, 64])
def test_stripes_are_as_wide_as_pixels_can_show(size: int) -> None:
    """Along a line of pixels waves of 3.5 pixels and more change sign at most twice in so many."""
    down, across = _stripes(torch.ones(4, 250, 1, 1, 1), size, size, stream(0, 0, "stripes"))
    rows = torch.stack([a * b for a, b in zip(down, across, strict=True)]).sum(0).flatten(0, 1)
    assert rows.shape == (1000, 1, size, size)
    assert 0.9 < float(rows.abs().max()) <= 1 + 1e-5
    striped = rows.abs().amax((1, 2, 3)) > 0
    assert 0.4 < float(striped.float().mean()) < 0.6, "half of the shapes"
    rows = rows[striped]
    crossings = (rows.diff(dim=3).sign().diff(dim=3) != 0).sum(3).flatten(1).amax(1)  # turns along each row
    most = 2 * min(8, size / 3.5) + 1
    assert int(crossings.max()) <= most
    assert int(crossings.max()) >= most / 2, "and some are as narrow"


def test_channels_go_together_in_a_measure_that_differs() -> None:
    noise = torch.randn(500, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = in_colour(noise, stream(0, 0, "colour"))
    assert float(rows.std()) == pytest.approx(1.0, abs=0.05)
    flat = rows.flatten(2)
    alike = torch.stack([torch.corrcoef(one)[0, 1] for one in flat])
    assert float(alike.quantile(0.1)) < 0.4
    assert float(alike.quantile(0.9)) > 0.85
    one = torch.randn(4, 1, 8, 8)
    assert torch.equal(in_colour(one, stream(0, 0, "colour")), one)


def test_without_a_range_they_are_smooth_and_vectors_are_normal() -> None:
    for shape, same in (((1, 8, 8), "smooth"), ((5,), "normal")):
        shown, other = (draw_start(shape, 9, stream(0, 0, "start"), init) for init in ("scenes", same))  # type: ignore[arg-type]
        assert torch.equal(shown, other)


def test_kinds_are_mixed_within_a_set() -> None:
    """Pictures of two tones within the range are strokes, and no third of a set is without them."""
    rows = draw_start((1, 32, 32), 300, stream(0, 0, "start"), "scenes", BOUNDS).flatten(1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    near = ((rows - low < 0.05) | (high - rows < 0.05)).float().mean(1)
    strokes = ((near > 0.8) & (low.flatten() > 0) & (high.flatten() < 1)).view(3, 100).sum(1)
    assert int(strokes.min()) > 0.15 * int(strokes.sum())
