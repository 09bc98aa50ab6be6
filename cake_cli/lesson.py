"""What a student learns from: a bank, real samples, or both; and what is held out of the bank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cake_cli.config import TrainingConfig
from cake_cli.distillation.pool import Part, Pool
from cake_cli.errors import DataError
from cake_cli.synthesis.bank import SampleBank


@dataclass(frozen=True)
class Lesson:
    """What a student learns from, and what it is measured on meanwhile: no real data is in the latter."""

    learned: Pool
    heldout: Pool | None = None
    """Synthetic samples that are never trained on."""
    beside: Pool | None = None
    """Synthetic samples that are: the rows before and after held-out ones, made like them in all."""


def compose(bank: SampleBank | None, real: list[Part], settings: TrainingConfig) -> Lesson:
    """What is learned and what is held out, of a bank and of real samples.

    Args:
        bank: its samples are chosen by their step size, and every n-th row is held out.
        real: all are learned from, none is measured on.
        settings: of the training.

    Raises:
        DataError: if nothing is left, or the bank is damaged.
    """
    if bank is None:
        return Lesson(Pool(tuple(real), torch.arange(sum(len(part.inputs) for part in real))))
    samples = list(bank.shards())
    if not samples:
        raise DataError(f"the bank {bank.path} has no samples yet", "cake resume, or synthesize it again")
    parts = tuple(Part(shard.inputs, shard.logits) for shard in samples)
    sizes = torch.cat([shard.step_sizes for shard in samples])  # (N,)
    low, high = settings.min_step_size or 0.0, settings.max_step_size or float("inf")
    rows = ((sizes >= low) & (sizes <= high)).nonzero().flatten()
    if len(rows) < 2:
        raise DataError("no samples are left between min_step_size and max_step_size", "widen them")
    pool = Pool(parts, rows, bank.plan.groups, len(rows))
    held = heldout_mask(len(pool), bank.plan.groups, settings.heldout_fraction)
    beside = (held.roll(bank.plan.groups) | held.roll(-bank.plan.groups)) & ~held
    learned = pool.select(~held)
    if real:
        count = sum(len(part.inputs) for part in real)
        own = torch.arange(len(sizes), len(sizes) + count)
        learned = Pool((*parts, *real), torch.cat([learned.rows, own]), learned.group, learned.paired)
    return Lesson(learned, pool.select(held), pool.select(beside)) if bool(held.any()) else Lesson(learned)


def heldout_mask(samples: int, group: int, fraction: float) -> Tensor:
    """Every n-th row of contrasted samples is held out, of every set and step size alike: a mask (N,)."""
    rows = torch.arange(samples) // group
    last = int(rows[-1])
    if fraction == 0 or last == 0:
        return torch.zeros(samples, dtype=torch.bool)
    period = max(2, round(1 / fraction))
    return rows % period == min(period // 2, last // 2)
