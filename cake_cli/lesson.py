"""What a student learns from: a bank, real samples, or both; and what is held out of the bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    neighbours: Pool | None = None
    """Synthetic samples that are: the rows before and after held-out ones, made like them in all."""
    waypoints: int = 0
    """How many of what is learned are points on the way to samples, whose labels the steps had asked for."""

    def share(self, part: float, *, seed: int) -> Lesson:
        """A part of what is learned, drawn at random, beside all that is held out.

        Args:
            part: between 0 and 1, of the samples, of the points on the way, and of what is beside, together.
            seed: of the draw, by which rows of contrasted samples stay whole.
        """
        drawing, pool = torch.Generator().manual_seed(seed), self.learned
        rows_of_samples = pool.paired // pool.group
        units = rows_of_samples + len(pool) - pool.paired
        chosen = torch.zeros(units, dtype=torch.bool)
        chosen[torch.randperm(units, generator=drawing)[: max(2, round(part * units))]] = True
        rows, others = chosen[:rows_of_samples], chosen[rows_of_samples:]
        mask = torch.cat([rows.repeat_interleave(pool.group), others])
        return replace(self, learned=pool.select(mask), waypoints=int(others[: self.waypoints].sum()))


def compose(bank: SampleBank | None, beside: list[Part], settings: TrainingConfig, ways: Sequence[Part] = ()) -> Lesson:
    """What is learned and what is held out, of a bank and of what is learned beside it.

    Args:
        bank: its samples are chosen by their step size, and every n-th row is held out.
        beside: noise and real samples; all are learned from, none is measured on.
        settings: of the training.
        ways: the points on the way to the bank's samples, (N · W, *shape) in all, those of a sample together; of
            samples that are not learned, held out for one, they are not either.

    Raises:
        DataError: if nothing is left, or the bank is damaged.
    """
    if bank is None:
        return Lesson(Pool(tuple(beside), torch.arange(sum(len(part.inputs) for part in beside))))
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
    first = int((rows < sum(shard["samples"] for shard in bank.manifest["shards"] if shard["round"] == 1)).sum())
    held = heldout_mask(len(pool), bank.plan.groups, settings.heldout_fraction, first=first)
    near = (held.roll(bank.plan.groups) | held.roll(-bank.plan.groups)) & ~held
    learned = _within(pool.select(~held), bank, settings.replay)
    count = sum(len(part.inputs) for part in beside)
    walked = sum(len(part.inputs) for part in ways)
    each = walked // len(sizes)  # W
    passed = (len(sizes) + learned.rows[:, None] * each + torch.arange(each)).flatten()  # (M, W) -> (M · W,)
    own = torch.arange(len(sizes) + walked, len(sizes) + walked + count)
    learned = Pool((*parts, *ways, *beside), torch.cat([learned.rows, passed, own]), learned.group, learned.paired)
    if not bool(held.any()):
        return Lesson(learned, waypoints=len(passed))
    return Lesson(learned, pool.select(held), pool.select(near), len(passed))


def _within(learned: Pool, bank: SampleBank, most: int | None) -> Pool:
    """At most so many samples: those of the latest round, and an even choice among the rows of earlier ones."""
    latest = bank.latest_round
    earlier = learned.rows < sum(shard["samples"] for shard in bank.manifest["shards"] if shard["round"] < latest)
    room = len(learned) if most is None else most - int((~earlier).sum())
    rows = int(earlier.sum()) // learned.group
    if room >= rows * learned.group:
        return learned
    kept = torch.arange(max(0, room) // learned.group)
    chosen = torch.zeros(rows, dtype=torch.bool)
    chosen[kept * rows // max(1, len(kept))] = True
    return learned.select(
        torch.cat([chosen.repeat_interleave(learned.group), torch.ones(int((~earlier).sum())).bool()])
    )


def of_round(bank: SampleBank, number: int) -> Pool:
    """All samples of one round of a bank.

    Raises:
        DataError: if a shard is damaged.
    """
    parts = tuple(Part(shard.inputs, shard.logits) for shard in bank.shards(number=number))
    rows = torch.arange(sum(len(part.inputs) for part in parts))
    return Pool(parts, rows, bank.plan.groups, len(rows))


def heldout_before(lesson: Lesson, bank: SampleBank, number: int) -> Pool | None:
    """What is held out of the rounds before `number`; None of nothing."""
    if lesson.heldout is None:
        return None
    end = sum(shard["samples"] for shard in bank.manifest["shards"] if shard["round"] < number)
    mask = lesson.heldout.rows < end
    return lesson.heldout.select(mask) if bool(mask.any()) else None


def heldout_mask(samples: int, group: int, fraction: float, *, first: int | None = None) -> Tensor:
    """Every n-th row of contrasted samples is held out, of every set and step size alike: a mask (N,).

    Args:
        samples: N.
        group: samples of a row.
        fraction: the share that is held out, 1/n.
        first: samples of the first round, all by default. A round that is short has a row held out nearer to its
            beginning, and the same rows are then held out of what later rounds add to.
    """
    rows = torch.arange(samples) // group
    if fraction == 0 or int(rows[-1]) == 0:
        return torch.zeros(samples, dtype=torch.bool)
    period = max(2, round(1 / fraction))
    last = ((samples if first is None else min(first, samples)) - 1) // group
    return rows % period == (min(period // 2, last // 2) if last > 0 else 1)
