"""In which order samples are learned in an epoch: the same wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WINDOW_BYTES = 512 * 2**20
"""Samples of about this size are shuffled together: what a stream from disk holds in memory at a time."""
BLOCK_BYTES = 2**20
"""Samples of about this size stay neighbours on the way from the disk, so that it is read in long stretches."""


@dataclass(frozen=True)
class Grain:
    """How finely samples are shuffled. It depends on the bank alone, never on the machine's memory."""

    window: int
    """Samples that are shuffled together: whole blocks."""
    block: int
    """Neighbours that are in one window: whole rows of contrasted samples."""

    @staticmethod
    def of(row_bytes: int, group: int = 1) -> Grain:
        """The grain of samples of `row_bytes` each, whose neighbours belong together by `group`."""
        block = group * max(1, BLOCK_BYTES // (row_bytes * group))
        return Grain(window=block * max(1, WINDOW_BYTES // (row_bytes * block)), block=block)


@dataclass(frozen=True)
class Order:
    """The samples of an epoch, step after step."""

    index: Tensor
    """(steps · batch,) int64, positions of samples."""
    bounds: tuple[int, ...]
    """Where in `index` a window ends; the last is its length."""
    batch: int
    """Samples of a step."""
    partners: Tensor | None = None
    """(steps · batch,) int64: for each sample another of its row, where they are to be mixed."""


def shuffled(count: int, batch: int, grain: Grain, generator: torch.Generator) -> Order:
    """A random order of `count` samples, cut into whole batches.

    Up to a window's size every order is equally likely. Beyond it, blocks of neighbours are drawn into windows at
    random, and the samples of a window are shuffled: each is in one window of the epoch, with other neighbours'
    blocks every time.

    Args:
        count: N samples.
        batch: samples of a step; what does not fill the last one is left out.
        grain: sizes of windows and blocks.
        generator: on the CPU.
    """
    whole = count // batch * batch
    if count <= grain.window:
        return Order(torch.randperm(count, generator=generator)[:whole], (whole,), batch)
    blocks = torch.randperm(-(-count // grain.block), generator=generator)
    parts: list[Tensor] = []
    for drawn in torch.split(blocks, grain.window // grain.block):
        rows = (drawn[:, None] * grain.block + torch.arange(grain.block)).flatten()  # (blocks, block) -> (rows,)
        rows = rows[rows < count]
        parts.append(rows[torch.randperm(len(rows), generator=generator)])
    ends = torch.tensor([len(part) for part in parts]).cumsum(0).clamp_max(whole)
    bounds = dict.fromkeys(int(end) for end in ends)  # windows that the cut leaves empty drop out
    return Order(torch.cat(parts)[:whole], tuple(bounds), batch)


def in_turn(count: int, batch: int, grain: Grain) -> Order:
    """All samples as they lie, the last batch as small as it comes."""
    window = -(-grain.window // batch) * batch
    bounds = (*range(window, count, window), count)
    return Order(torch.arange(count), bounds, batch)


def with_partners(order: Order, group: int, paired: int, generator: torch.Generator) -> Order:
    """The order, with another sample of the same row beside each.

    Args:
        order: of samples whose first `paired` lie in rows of `group`.
        group: G samples of a row.
        paired: how many samples lie in rows; the others are their own partners.
        generator: on the CPU.
    """
    index = order.index
    step = torch.randint(1, max(2, group), (len(index),), generator=generator)
    other = index - index % group + (index % group + step) % group
    return Order(index, order.bounds, order.batch, torch.where(index < paired, other, index))


def share_of(order: Order, rank: int, world: int) -> Order:
    """The part of every batch that one of `world` processes learns; ValueError if the last batch is no whole one."""
    if world == 1:
        return order
    if len(order.index) % order.batch:
        raise ValueError("only whole batches can be shared out")

    def own(values: Tensor) -> Tensor:
        steps = values.view(-1, order.batch)[:, rank::world]  # (steps, own batch)
        return steps.reshape(-1).contiguous()

    batch = len(range(rank, order.batch, world))
    position = own(torch.arange(len(order.index)))
    bounds = torch.searchsorted(position, torch.tensor(order.bounds)).tolist()
    partners = None if order.partners is None else own(order.partners)
    return Order(own(order.index), tuple(dict.fromkeys(bounds)), batch, partners)
