"""An order of step sizes of which every beginning covers them all."""

from __future__ import annotations

GOLDEN = 0x9E3779B97F4A7C15
"""The golden ratio's fraction in 64 bits: its multiples fall evenly into the unit interval, however many they are."""


def spread_order(sets: int) -> list[int]:
    """A permutation of 0..S-1 whose every beginning, and every n-th entry, lies evenly over the whole.

    Entry s is the rank of ``s · golden ratio mod 1`` among all S: a Kronecker sequence, of low discrepancy
    (Niederreiter, "Random Number Generation and Quasi-Monte Carlo Methods", 1992, Section 3.1).

    Args:
        sets: S.
    """
    by_value = sorted(range(sets), key=lambda index: index * GOLDEN % 2**64)
    order = [0] * sets
    for position, index in enumerate(by_value):
        order[index] = position
    return order
