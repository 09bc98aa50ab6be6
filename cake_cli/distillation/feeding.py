"""Batches for the trainer, from wherever the samples lie: on the device, in main memory, or on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from cake_cli.distillation.order import Grain, Order
from cake_cli.distillation.pool import Pool
from cake_cli.hardware import Hardware
from cake_cli.threads import compute_alone

T = TypeVar("T")


class Feed(Protocol):
    """Samples that come in batches, in any order that is asked for; which memory they lie in changes no bit."""

    @property
    def grain(self) -> Grain:
        """How finely it is shuffled."""

    @property
    def group(self) -> int:
        """G: rows of so many neighbours belong together."""

    @property
    def paired(self) -> int:
        """How many of the first samples lie in such rows."""

    def __len__(self) -> int: ...

    def batches(self, order: Order) -> Iterator[Labelled]:
        """The batches of an order, each on the device."""


@dataclass(frozen=True)
class Labelled:
    """Samples in one memory with what the teacher says of them: a batch, a window, or all of a feed."""

    inputs: Tensor
    """(N, *shape) float32, normalised; images channels last."""
    logits: Tensor
    """(N, K) float32, the teacher's."""
    labels: Tensor | None = None
    """(N,) int64, true classes, -1 for synthetic samples; None where no sample has one."""
    partners: Tensor | None = None
    """(N, *shape) float32: another input of the same row, where they are to be mixed."""
    group: int = 1
    paired: int = 0

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def grain(self) -> Grain:
        """How finely it is shuffled."""
        values = self.inputs[0].numel() + self.logits.shape[1]
        return Grain.of(4 * (values + 1), self.group)

    def take(self, rows: Tensor, partners: Tensor | None = None, *, pinned: bool = False) -> Labelled:
        """The samples at positions (M,), by index selects where they lie.

        Args:
            rows: (M,) int64.
            partners: (M,) int64, the samples to be mixed with them.
            pinned: put together in page-locked memory, from which a CUDA device copies by itself.
        """

        def selected(values: Tensor, index: Tensor) -> Tensor:
            out = torch.empty(len(index), *values.shape[1:], dtype=values.dtype, pin_memory=True) if pinned else None
            return torch.index_select(values, 0, index, out=out)

        flat, shape = flattened(self.inputs)
        return Labelled(
            shaped(selected(flat, rows), shape),
            selected(self.logits, rows),
            None if self.labels is None else selected(self.labels, rows),
            None if partners is None else shaped(selected(flat, partners), shape),
        )

    def to(self, device: torch.device) -> Labelled:
        """The same samples on a device; from page-locked memory without waiting."""
        return replace(
            self,
            inputs=self.inputs.to(device, non_blocking=True),
            logits=self.logits.to(device, non_blocking=True),
            labels=None if self.labels is None else self.labels.to(device, non_blocking=True),
            partners=None if self.partners is None else self.partners.to(device, non_blocking=True),
        )

    def batches(self, order: Order) -> Iterator[Labelled]:
        """Index selects on the device."""
        index = torch.split(order.index.to(self.inputs.device), order.batch)
        own = replace(self, inputs=shaped(*flattened(self.inputs)))  # a copy only where images are not channels last
        if order.partners is None:
            yield from map(own.take, index)
        else:
            yield from map(own.take, index, torch.split(order.partners.to(self.inputs.device), order.batch))


class Streamed:
    """Samples that the device's memory does not hold: a window of them in main memory, the next being read.

    Args:
        pool: the samples on the disk.
        hardware: the device that batches go to.
        whole: main memory holds them all, so they are read once.
    """

    def __init__(self, pool: Pool, hardware: Hardware, *, whole: bool = False) -> None:
        self.pool = pool
        self.grain = pool.grain
        self.group = pool.group
        self.paired = pool.paired
        self._device = hardware.device
        self._pinned = hardware.device.type == "cuda"
        everything = torch.arange(len(pool))
        self._all = _Window(everything, load(pool, everything, torch.device("cpu"))) if whole else None

    def __len__(self) -> int:
        return len(self.pool)

    def batches(self, order: Order) -> Iterator[Labelled]:
        """Batches are put together in main memory, one ahead of the device."""
        for batch in _ahead(self._gathered(order)):
            yield batch.to(self._device)

    def _gathered(self, order: Order) -> Iterator[Labelled]:
        windows = iter([self._all] * len(order.bounds)) if self._all else _ahead(self._windows(order))
        held: list[Labelled] = []
        start = 0
        for end in order.bounds:
            window = next(windows)
            while start < end:
                stop = min(start - start % order.batch + order.batch, end, len(order.index))
                held.append(window.take(order, slice(start, stop), pinned=self._pinned))
                start = stop
                if start % order.batch == 0 or start == len(order.index):
                    yield held[0] if len(held) == 1 else _joined(held)
                    held = []
            del window  # before the one after the next is read

    def _windows(self, order: Order) -> Iterator[_Window]:
        first = 0
        for end in order.bounds:
            inside = slice(first, end)
            wanted = order.index[inside]
            if order.partners is not None:
                wanted = torch.cat([wanted, order.partners[inside]])
            positions = torch.unique(wanted)  # sorted, so that files are read forward
            yield _Window(positions, load(self.pool, positions, torch.device("cpu")))
            first = end


@dataclass(frozen=True)
class _Window:
    """Samples in main memory, and their positions in the feed, ascending."""

    positions: Tensor
    samples: Labelled

    def take(self, order: Order, stretch: slice, *, pinned: bool) -> Labelled:
        """The samples of a stretch of the order, all of which are here."""
        rows = torch.searchsorted(self.positions, order.index[stretch])
        partners = None if order.partners is None else torch.searchsorted(self.positions, order.partners[stretch])
        return self.samples.take(rows, partners, pinned=pinned)


def load(pool: Pool, positions: Tensor, device: torch.device) -> Labelled:
    """Reads samples at ascending `positions` (M,) into one memory; only a piece of them is ever there twice."""
    inputs = shaped(torch.empty(len(positions), torch.Size(pool.shape).numel(), device=device), pool.shape)
    logits = torch.empty(len(positions), pool.classes, device=device)
    labels = torch.full((len(positions),), -1, device=device) if pool.has_labels else None
    for piece, part in pool.read(positions):
        inputs[piece] = part.inputs.to(device)
        logits[piece] = part.logits.to(device)
        if labels is not None and part.labels is not None:
            labels[piece] = part.labels.to(device)
    return Labelled(inputs, logits, labels, group=pool.group, paired=pool.paired)


def _channels_last(shape: tuple[int, ...]) -> bool:
    """One channel lies the same either way, and torch leaves such images as they are."""
    return len(shape) == 3 and shape[0] > 1


def flattened(inputs: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Inputs (N, *shape) as they lie in memory, (N, values), and their shape: no copy where images are channels last.

    A row of values is one stretch of memory, which index selects copy fastest.
    """
    shape = tuple(inputs.shape[1:])
    return (inputs.movedim(1, -1) if _channels_last(shape) else inputs).flatten(1), shape


def shaped(flat: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What `flattened` was made from: (N, values) to (N, *shape), without a copy."""
    if not _channels_last(shape):
        return flat.view(-1, *shape)
    channels, height, width = shape
    return flat.view(-1, height, width, channels).movedim(-1, 1)


def _joined(parts: list[Labelled]) -> Labelled:
    shape = tuple(parts[0].inputs.shape[1:])
    labels = [part.labels for part in parts if part.labels is not None]
    partners = [flattened(part.partners)[0] for part in parts if part.partners is not None]
    return Labelled(
        shaped(torch.cat([flattened(part.inputs)[0] for part in parts]), shape),
        torch.cat([part.logits for part in parts]),
        torch.cat(labels) if labels else None,
        shaped(torch.cat(partners), shape) if partners else None,
    )


def _ahead(source: Iterator[T]) -> Iterator[T]:
    """The same elements, the next being made in a thread while one is used; never more than these two are there."""
    with ThreadPoolExecutor(1, initializer=compute_alone) as thread:
        found: T | None = None
        waiting = thread.submit(next, source, None)
        while (found := waiting.result()) is not None:
            waiting = thread.submit(next, source, None)
            yield found
