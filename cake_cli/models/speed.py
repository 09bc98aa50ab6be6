"""How fast a model answers on this machine: one row at a time, and many."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cake_cli.errors import is_out_of_memory
from cake_cli.hardware import Hardware

WARM_UP = 3
LEAST = 5
"""Passes that are timed at least."""
LARGEST_BATCH = 1024
GAIN = 1.02
"""A larger batch must be so many times as fast to count as better; after two that are not, the search ends."""
SLOW = 2.0
"""Seconds of a pass beyond which no larger batch is tried."""


@dataclass(frozen=True)
class Speed:
    """Times of forward passes, in seconds."""

    latency: float
    """Of one row: the median."""
    best_batch: int
    """Rows of the batch with the most rows a second."""
    throughput: float
    """Rows a second in such batches."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def measure_speed(
    model: Callable[[Tensor], Tensor], shape: tuple[int, ...], hardware: Hardware, *, seconds: float = 0.3
) -> Speed:
    """Times a model on random rows, after warming up: medians, each pass waited for.

    Args:
        model: from rows (N, *shape) to (N, K), on the device.
        shape: of a row.
        hardware: the device.
        seconds: what each batch size may take, at least `LEAST` passes.

    Raises:
        torch.OutOfMemoryError: if one row is too much for a GPU; of a CPU MemoryError or RuntimeError.
    """
    latency = _median(model, shape, hardware, 1, seconds)
    best, throughput, worse, batch = 1, 1 / latency, 0, 1
    spent = latency
    while batch < LARGEST_BATCH and worse < 2 and spent < SLOW:
        batch *= 2
        try:
            spent = _median(model, shape, hardware, batch, seconds)
        except (RuntimeError, MemoryError) as fault:
            if not is_out_of_memory(fault):
                raise
            break
        if batch / spent > GAIN * throughput:
            best, throughput, worse = batch, batch / spent, 0
        else:
            worse += 1
    return Speed(latency, best, throughput)


def _median(
    model: Callable[[Tensor], Tensor], shape: tuple[int, ...], hardware: Hardware, batch: int, seconds: float
) -> float:
    rows = hardware.place_rows(torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)))
    times: list[float] = []
    with torch.no_grad():
        for _ in range(WARM_UP):
            model(rows)
        hardware.synchronize()
        while len(times) < LEAST or sum(times) < seconds:
            started = time.perf_counter()
            model(rows)
            hardware.synchronize()
            times.append(time.perf_counter() - started)
    return statistics.median(times)
