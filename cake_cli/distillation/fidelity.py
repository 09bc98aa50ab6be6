"""How far a student agrees with its teacher, and whether it knows only the samples that it learned from."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cake_cli.distillation.feeding import Feed
from cake_cli.distillation.order import in_turn
from cake_cli.hardware import Hardware

BY_HEART = 0.1
"""Share of samples known by heart alone from which on overfitting is worth a word."""
FEW_ROWS = 4
"""Of fewer rows nothing is said."""


def measure_agreement(student: nn.Module, samples: Feed, hardware: Hardware) -> float:
    """Share of samples on which the student's most probable class is the teacher's; leaves it in eval mode."""
    return int(_agreed(student, samples, hardware).sum()) / len(samples)


def row_agreement(student: nn.Module, samples: Feed, hardware: Hardware) -> Tensor:
    """The same of each row of contrasted samples: (R,) float64, on the CPU."""
    return _agreed(student, samples, hardware).cpu().double().view(-1, samples.group).mean(dim=1)  # (N,) -> (R,)


def _agreed(student: nn.Module, samples: Feed, hardware: Hardware, batch_size: int = 1000) -> Tensor:
    """(N,) bool, on the device."""
    student.eval()
    with torch.no_grad(), hardware.autocast():
        return torch.cat(
            [
                student(batch.inputs).argmax(dim=1) == batch.logits.argmax(dim=1)
                for batch in samples.batches(in_turn(len(samples), batch_size, samples.grain))
            ]
        )


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
    z = 1.959964
    terms = (
        z,
        (z**3 + z) / 4 / freedom,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96 / freedom**2,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / freedom**3,
    )
    return sum(terms)
