"""How far a share measured on n samples may be off."""

from __future__ import annotations

import numpy as np

_RESAMPLES = 10_000


def bootstrap_interval(hits: int, samples: int, *, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of a share (Efron, 1979).

    A resample of n zeros and ones with replacement has Binomial(n, hits / n) ones, so the resamples are
    drawn as such: the same distribution, without n draws for each.

    Args:
        hits: how many of the samples count.
        samples: n, at least 1.
        seed: of the resampling.
        level: of the interval.

    Returns:
        Its ends, in 0..1.
    """
    shares = np.random.default_rng(seed).binomial(samples, hits / samples, _RESAMPLES) / samples
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
