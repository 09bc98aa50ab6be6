"""How far a student agrees with its teacher, and whether it knows only the samples that it learned from."""

from __future__ import annotations

import math

import torch
from torch import nn

from cake_cli.distillation.feeding import Feed
from cake_cli.distillation.order import in_turn
from cake_cli.hardware import Hardware

BY_HEART = 0.1
"""Share of samples known by heart alone from which on overfitting is worth a word."""


def measure_agreement(student: nn.Module, samples: Feed, hardware: Hardware, batch_size: int = 1000) -> float:
    """Share of samples on which the student's most probable class is the teacher's; leaves it in eval mode."""
    student.eval()
    agreed = torch.zeros((), device=hardware.device)
    with torch.no_grad(), hardware.autocast():
        for batch in samples.batches(in_turn(len(samples), batch_size, samples.grain)):
            agreed += (student(batch.inputs).argmax(dim=1) == batch.logits.argmax(dim=1)).sum()
    return float(agreed) / len(samples)


def known_by_heart(learned: tuple[float, int], heldout: tuple[float, int]) -> float | None:
    """What part of its samples a student answers like its teacher only because it learned them, where that is much.

    That part is the difference between its agreement on samples that it learned from and on others, made alike.
    It counts as overfitting when the lower end of its 95 % interval (two independent shares, normal) exceeds
    `BY_HEART`: a tenth of the samples and more is beyond the chance of which were held out, and other samples would
    win it back.

    Args:
        learned: agreement on samples that were learned, and how many they were.
        heldout: the same of samples that were not.

    Returns:
        The difference, or None where it is small or uncertain.
    """
    gap = learned[0] - heldout[0]
    spread = math.sqrt(sum(share * (1 - share) / count for share, count in (learned, heldout)))
    return gap if gap - 1.96 * spread > BY_HEART else None
