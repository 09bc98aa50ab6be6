"""How samples are cut into sets, sets into waves, and both into rounds."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import pairwise

from cake_cli.errors import UsageError
from cake_cli.synthesis.spread import spread_order

LEAST_SETS_OF_A_ROUND = 5
"""Where the number of rounds is not given: fewer would not reach over the fall of the step size."""


@dataclass(frozen=True)
class SetPlan:
    """How many sets there are, how large, and how many run side by side."""

    sets: int
    """S."""
    rows: int
    """R, rows of a set."""
    groups: int
    """G, samples of a row, all of different classes."""
    at_once: int
    """Sets side by side, which also share a shard of the bank, as far as their round has so many."""
    spread: bool = False
    """Whether step sizes come in an order of which every beginning covers them all, instead of falling."""
    rounds: int = 1
    """N: after each of them but the last, the student learns from the samples so far."""

    def in_rounds(self, most: int) -> SetPlan:
        """The same in at most so many rounds, each of `LEAST_SETS_OF_A_ROUND` sets or more; in one if need be."""
        rounds = max(1, min(most, self.sets // LEAST_SETS_OF_A_ROUND))
        return replace(self, rounds=rounds, at_once=min(self.at_once, math.ceil(self.sets / rounds)))

    def shared_by(self, world: int) -> SetPlan:
        """The same in waves of at most the share of a round that each of so many processes has."""
        if self.rounds == 1:
            return self
        return replace(self, at_once=min(self.at_once, math.ceil(self.sets / self.rounds / world)))

    @property
    def set_size(self) -> int:
        """B = R · G samples."""
        return self.rows * self.groups

    @property
    def samples(self) -> int:
        """S · B."""
        return self.sets * self.set_size

    @property
    def rounds_of_sets(self) -> list[range]:
        """The sets of each round, in order: as equal shares as whole sets allow."""
        ends = [self.sets * number // self.rounds for number in range(self.rounds + 1)]
        return [range(*pair) for pair in pairwise(ends)]

    def place(self, index: int) -> tuple[int, int]:
        """Where a set stands in the fall of the step size, and of how many: each round has a whole fall."""
        own = self.rounds_of_sets[self.round_of(index) - 1]
        position = index - own.start
        return (int(spread_order(len(own))[position]) if self.spread else position), len(own)

    @property
    def wave_count(self) -> int:
        """How many waves the sets make."""
        return sum(math.ceil(len(own) / self.at_once) for own in self.rounds_of_sets)

    @property
    def waves(self) -> list[range]:
        """The sets of each wave, in order; a wave is of one round."""
        return [wave for own in self.rounds_of_sets for wave in cut(own, self.at_once)]

    def round_of(self, index: int) -> int:
        """The round of a set, from 1."""
        return bisect_right([own.start for own in self.rounds_of_sets], index)

    def wave_of(self, index: int) -> int:
        """The number of the wave that begins with a set, from 0."""
        rounds = self.rounds_of_sets
        number = self.round_of(index) - 1
        before = sum(math.ceil(len(own) / self.at_once) for own in rounds[:number])
        return before + (index - rounds[number].start) // self.at_once


def cut(sets: range, each: int) -> list[range]:
    """Some sets in order, so many at a time, at least one; the last time what is left."""
    return [sets[first : first + each] for first in range(0, len(sets), max(1, each))]


def plan_sets(
    *,
    samples: int,
    classes: int,
    groups: int | None = None,
    set_size: int | None = None,
    at_once: int | None = None,
    rows_at_once: int = 500,
    rounds: int = 1,
) -> SetPlan:
    """Cuts a number of samples into sets.

    Args:
        samples: how many are wanted; rounded up to whole sets.
        classes: K of the teacher.
        groups: G; 10 or K by default, whichever is less.
        set_size: B; the multiple of G nearest below 100 by default.
        at_once: sets side by side; as many as hold `rows_at_once` samples by default.
        rows_at_once: samples side by side.
        rounds: N.

    Raises:
        UsageError: if there is one class only, G exceeds K, G does not divide B, or there are fewer sets than rounds.
    """
    if classes < 2:
        raise UsageError("a teacher of one class has no boundary to sample", "use a classifier of two or more classes")
    groups = min(10, classes) if groups is None else groups
    if groups > classes:
        raise UsageError(
            f"a row of {groups} different classes cannot be drawn from {classes}",
            f"--set synthesis.groups={min(10, classes)}",
        )
    set_size = groups * max(1, 100 // groups) if set_size is None else set_size
    if set_size % groups:
        raise UsageError(
            f"a set of {set_size} samples cannot be cut into rows of {groups}",
            f"--set synthesis.set_size={groups * max(1, set_size // groups)}",
        )
    sets = math.ceil(samples / set_size)
    at_once = max(1, rows_at_once // set_size) if at_once is None else at_once
    if sets < rounds:
        raise UsageError(
            f"{sets} set{'s' * (sets != 1)} of {set_size} samples cannot be shared by {rounds} rounds",
            f"--samples {rounds * set_size}, or --rounds {sets}",
        )
    side_by_side = min(at_once, math.ceil(sets / rounds))
    return SetPlan(sets=sets, rows=set_size // groups, groups=groups, at_once=side_by_side, rounds=rounds)
