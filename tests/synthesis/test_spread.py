from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from cake_cli.synthesis.sets import SetPlan
from cake_cli.synthesis.spread import spread_order


@pytest.mark.parametrize("sets", [1, 2, 7, 100, 1000, 8192])
def test_every_beginning_covers_all(sets: int) -> None:
    order = spread_order(sets)
    assert sorted(order) == list(range(sets))
    for count in {max(1, sets // 20), max(1, sets // 3), max(1, sets - 1)}:
        places = [0.0, *sorted(place / sets for place in order[:count]), 1.0]
        widest = max(after - before for before, after in pairwise(places))
        assert widest <= 2.2 / count, "no gap is much wider than that of even places"


def test_what_is_held_out_covers_all() -> None:
    """Training holds out every n-th set: those must not all be of large or of small step sizes."""
    held = sorted(place / 1000 for place in spread_order(1000)[10::20])
    widest = max(after - before for before, after in zip([0.0, *held], [*held, 1.0], strict=True))
    assert widest < 3 / len(held)


def test_a_plan_falls_unless_it_is_to_be_spread() -> None:
    plan = SetPlan(sets=5, rows=1, groups=2, at_once=2)
    assert [plan.place(index) for index in range(5)] == [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5)]
    assert (plan.wave_count, len(plan.waves)) == (3, 3)
    spread = replace(plan, spread=True)
    assert [spread.place(index)[0] for index in range(5)] == spread_order(5).tolist() == [0, 3, 1, 4, 2]
