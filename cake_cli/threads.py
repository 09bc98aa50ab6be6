"""How many threads compute on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import torch


@contextmanager
def with_threads(count: int | None) -> Iterator[None]:
    """Computes on the CPU with so many threads; None for as many as there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compute_alone() -> None:
    """Keeps this thread, which works beside the main one, from having threads of its own to compute with on the CPU.

    With them OpenMP counts more threads than processors, and from then on those of the main thread sleep between
    operations instead of waiting for the next: steps of a small teacher took a fifth longer.
    """
    others = torch.get_num_threads()  # of a thread's first call: what was set before it would not last
    torch.set_num_threads(1)
    restoring = Thread(target=torch.set_num_threads, args=(others,))  # MKL has one number for all threads
    restoring.start()
    restoring.join()
