"""How far a student agrees with its teacher, and whether it knows only the samples that it learned from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from cake_cli.distillation.feeding import Feed
from cake_cli.distillation.order import in_turn
from cake_cli.hardware import Hardware
from cake_cli.interval import Z, wilson_interval

BY_HEART = 0.1
"""Share of samples known by heart alone from which on overfitting is worth a word."""
FEW_ROWS = 4
"""Of fewer rows nothing is said."""
CLEARLY = 0.01
"""Fall of the agreement from which on it is worth a word: the whole interval must lie beyond it."""


@dataclass(frozen=True)
class Agreement:
    """Share of some samples on which a student's most probable class is the teacher's."""

    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    samples: int

    def to_json(self) -> dict[str, float | int]:
        """As plain values, for the record."""
        return asdict(self)

    def describe(self) -> str:
        """``93.1% (92.0% to 94.1%)``."""
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"


def agreement_of(rows: Tensor, group: int) -> Agreement:
    """The agreement over rows of contrasted samples, with an interval that allows for what rows have in common.

    The samples of a row are drawn together, so that they are right or wrong together: N of them tell as much as
    N / D independent ones, where D is the variance of the rows' means relative to that of independent samples (the
    design effect of Kish 1965), and at least 1. The interval is Wilson's for so many.

    Args:
        rows: agreement of each row, (R,).
        group: G samples of a row.
    """
    share, count = float(rows.mean()), len(rows) * group
    independent = share * (1 - share) / group
    effect = max(1.0, float(rows.var()) / independent) if independent > 0 and len(rows) > 1 else 1.0
    told = count / effect
    return Agreement(share, *wilson_interval(share, told), count)


def balanced_agreement(agreed: Tensor, classes: Tensor) -> Agreement:
    """The mean over classes of the agreement on each: what classes are rare among some inputs counts as much as others.

    Teachers give most inputs that are not data to few classes, and a student that knows those alone agrees on most of
    them. This is macro-averaged recall with the teacher's class for the true one; classes that no input is of have no
    part. The 95 % interval is the normal one of a sum of independent binomials, each share for its variance moved
    towards a half as by one input more on either side (Laplace).

    Args:
        agreed: 1 where the student chooses the teacher's class, else 0; of independent inputs, (N,).
        classes: the teacher's, (N,) int64.
    """
    counts = classes.bincount().double()  # (K,)
    right = classes.bincount(weights=agreed.double())
    there = counts > 0
    counts, right = counts[there], right[there]
    share = float((right / counts).mean())
    likely = (right + 1) / (counts + 2)
    half = Z * math.sqrt(float((likely * (1 - likely) / counts).sum())) / len(counts)
    return Agreement(share, max(0.0, share - half), min(1.0, share + half), len(agreed))


def clear_fall(before: Tensor, after: Tensor) -> float | None:
    """By how much the agreement fell between two states of a student, where that is clear.

    Args:
        before: agreement of each row, (R,), none of which either state has learned from.
        after: the same rows', later.

    Returns:
        The fall, or None where the 95 % interval of the mean of the rows' differences reaches below `CLEARLY`.
    """
    if len(before) < FEW_ROWS:
        return None
    falls = before - after
    fall = float(falls.mean())
    error = math.sqrt(float(falls.var()) / len(falls))
    return fall if fall - _student_t(len(falls) - 1) * error > CLEARLY else None


def measure_agreement(student: nn.Module, samples: Feed, hardware: Hardware) -> float:
    """Share of samples on which the student's most probable class is the teacher's; leaves it in eval mode."""
    return int(_agreed(student, samples, hardware).sum()) / len(samples)


def row_agreement(student: nn.Module, samples: Feed, hardware: Hardware) -> Tensor:
    """The same of each row of contrasted samples: (R,) float64, on the CPU."""
    return _agreed(student, samples, hardware).cpu().double().view(-1, samples.group).mean(dim=1)  # (N,) -> (R,)


def _agreed(student: nn.Module, samples: Feed, hardware: Hardware, batch_size: int = 1000) -> Tensor:
    """(N,) bool, on the device; of answers that are not finite, False: they choose no class."""
    student.eval()
    agreed = []
    with torch.no_grad(), hardware.autocast():
        for batch in samples.batches(in_turn(len(samples), batch_size, samples.grain)):
            logits = student(batch.inputs)  # (B, K)
            agreed.append((logits.argmax(dim=1) == batch.logits.argmax(dim=1)) & logits.isfinite().all(dim=1))
    return torch.cat(agreed)


def known_by_heart(learned: Tensor, heldout: Tensor) -> float | None:
    """What part of its samples a student answers like its teacher only because it learned them, where that is much.

    That part is the difference between its agreement on samples that it learned from and on others, made alike.
    It counts as overfitting when the lower end of its 95 % interval exceeds `BY_HEART`: a tenth of the samples and more
    is beyond the chance of which were held out, and other samples would win it back. The interval is Welch's, over
    rows: the objective draws the samples of a row together, so that they are right or wrong together.

    Args:
        learned: agreement of each row that was learned, (R,).
        heldout: the same of rows that were not, (R',).

    Returns:
        The difference, or None where it is small or uncertain.
    """
    if min(len(learned), len(heldout)) < FEW_ROWS:
        return None
    gap = float(learned.mean() - heldout.mean())
    parts = [float(rows.var()) / len(rows) for rows in (learned, heldout)]
    spread = sum(parts)
    if spread == 0:
        return gap if gap > BY_HEART else None
    freedom = spread**2 / sum(part**2 / (len(rows) - 1) for part, rows in zip(parts, (learned, heldout), strict=True))
    return gap if gap - _student_t(freedom) * math.sqrt(spread) > BY_HEART else None


def _student_t(freedom: float) -> float:
    """The 97.5 % point of Student's t (Abramowitz and Stegun 1964, 26.7.5), to 1 % from three degrees of freedom on."""
    z = Z
    terms = (
        z,
        (z**3 + z) / 4 / freedom,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96 / freedom**2,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / freedom**3,
    )
    return sum(terms)
