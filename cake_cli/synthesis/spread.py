"""An order of step sizes of which every beginning covers them all."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15
"""The golden ratio's fraction in 64 bits: its multiples fall evenly into the unit interval, however many they are."""


@lru_cache(maxsize=4)
def spread_order(sets: int) -> NDArray[np.int64]:
    """A permutation of 0..S-1 whose every beginning, and every n-th entry, lies evenly over the whole.

    Entry s is the rank of ``s · golden ratio mod 1`` among all S: a Kronecker sequence, of low discrepancy
    (Niederreiter, "Random Number Generation and Quasi-Monte Carlo Methods", 1992, Section 3.1).

    Args:
        sets: S.
    """
    by_value = np.argsort(np.arange(sets, dtype=np.uint64) * np.uint64(GOLDEN))  # modulo 2^64
    order = np.empty(sets, np.int64)
    order[by_value] = np.arange(sets)
    return order
