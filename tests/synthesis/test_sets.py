"""How samples are cut into sets, waves and rounds."""

from __future__ import annotations

import pytest

from cake_cli.errors import UsageError
from cake_cli.synthesis.sets import SetPlan, plan_sets


def places(plan: SetPlan) -> list[tuple[int, int]]:
    return [plan.place(index) for index in range(plan.sets)]


def test_one_round_is_cut_as_it_always_was():
    plan = SetPlan(sets=7, rows=2, groups=5, at_once=3)
    assert plan.waves == [range(0, 3), range(3, 6), range(6, 7)]
    assert places(plan) == [(number, 7) for number in range(7)]
    assert [plan.round_of(number) for number in range(7)] == [1] * 7


@pytest.mark.parametrize(("sets", "rounds", "at_once"), [(10, 4, 2), (8, 8, 5), (80, 4, 5), (9, 2, 9), (7, 3, 1)])
def test_rounds_have_whole_waves_and_whole_falls_of_the_step_size(sets: int, rounds: int, at_once: int):
    plan = SetPlan(sets=sets, rows=2, groups=5, at_once=at_once, rounds=rounds)
    shares = plan.rounds_of_sets
    assert [index for own in shares for index in own] == list(range(sets))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    waves = plan.waves
    assert len(waves) == plan.wave_count
    assert [index for wave in waves for index in wave] == list(range(sets))
    for number, wave in enumerate(waves):
        assert {plan.round_of(index) for index in wave} == {plan.round_of(wave.start)}
        assert plan.wave_of(wave.start) == number
    for own in shares:
        assert [plan.place(index) for index in own] == [(place, len(own)) for place in range(len(own))]


@pytest.mark.parametrize(
    ("rounds", "world", "at_once", "waves"),
    [(8, 1, 5, 40), (8, 2, 5, 40), (8, 8, 4, 56), (8, 99, 1, 200), (1, 8, 5, 40)],
)
def test_processes_share_each_round(rounds: int, world: int, at_once: int, waves: int):
    plan = SetPlan(sets=200, rows=10, groups=10, at_once=5, rounds=rounds).shared_by(world)
    assert (plan.at_once, plan.wave_count) == (at_once, waves)


def test_a_round_is_spread_over_all_step_sizes_too():
    plan = SetPlan(sets=20, rows=2, groups=5, at_once=2, spread=True, rounds=2)
    found = places(plan)
    assert sorted(found[:10]) == sorted(found[10:]) == [(place, 10) for place in range(10)]
    assert found[:10] != sorted(found[:10])


def test_more_rounds_than_sets_are_refused():
    with pytest.raises(UsageError, match="3 sets of 100 samples cannot be shared by 4 rounds"):
        plan_sets(samples=300, classes=10, rounds=4)
    assert plan_sets(samples=400, classes=10, rounds=4).at_once == 1
