"""Waves are stored by a thread of its own while the next is computed."""

from __future__ import annotations

from collections.abc import Callable
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import Self

from cake_cli.synthesis.engine import Wave
from cake_cli.threads import compute_alone


class ShardWriter:
    """Stores waves one after the other; at most one is waiting or being written, so memory does not grow.

    A context manager. At its end, and also when something else failed or the user interrupted, it waits until what
    was handed over is stored.

    Args:
        store: what is done in the thread with a wave and the rows of a pass that it was made with.
    """

    def __init__(self, store: Callable[[Wave, int], object]) -> None:
        self._store = store
        self._waiting: Queue[tuple[Wave, int] | None] = Queue()
        self._fault: BaseException | None = None
        self._thread = Thread(target=self._work, name="cake shard writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if kind is None:
            self.check()

    def put(self, wave: Wave, rows_per_pass: int) -> None:
        """Hands a wave over, after the one before is stored; raises as `check`."""
        self._waiting.join()
        self.check()
        self._waiting.put((wave, rows_per_pass))

    def check(self) -> None:
        """Raises what storing raised, if it did; nothing is stored after that."""
        if self._fault is not None:
            raise self._fault

    def _work(self) -> None:
        compute_alone()
        while (item := self._waiting.get()) is not None:
            try:
                if self._fault is None:
                    self._store(*item)
            except BaseException as fault:
                self._fault = fault
            finally:
                del item  # or it would be held until the next one comes
                self._waiting.task_done()
