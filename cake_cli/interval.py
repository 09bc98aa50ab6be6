"""How far a share measured on n samples may be off."""

from __future__ import annotations

import math

Z = 1.959964
"""The 97.5 % point of the normal distribution."""


def wilson_interval(share: float, samples: float) -> tuple[float, float]:
    """The 95 % score interval of a share of independent samples (Wilson, 1927).

    It has a width where all samples count, or none: of 500 right of 500 it is 0.992 to 1.

    Args:
        share: of the samples that count, in 0..1.
        samples: n, above 0; not whole where some are worth less than one.

    Returns:
        Its ends, in 0..1, the share between them.
    """
    middle = (share + Z**2 / (2 * samples)) / (1 + Z**2 / samples)
    half = Z / (1 + Z**2 / samples) * math.sqrt(share * (1 - share) / samples + Z**2 / (4 * samples**2))
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))
