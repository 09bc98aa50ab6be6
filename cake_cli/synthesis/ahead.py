"""Starting points of the next wave, drawn on the host while the device computes this one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

Drawn = tuple[Tensor, Tensor]
"""Starting points (P·B, *shape) and labels (P·B,), on the CPU."""


class DrawnAhead:
    """Draws for the sets that are expected next, in a thread; what was not expected is drawn when it is asked for.

    A set is drawn from its own streams, so that it makes no difference to it when that happens.

    Args:
        draw: draws the starting points and labels of some sets.
        pin: whether they are put into pinned memory, from which a copy to the device need not be waited for.
    """

    def __init__(self, draw: Callable[[range], Drawn], *, pin: bool) -> None:
        self._draw = draw
        self._pin = pin
        self._pool = ThreadPoolExecutor(1, "starting-points")
        self._expected: dict[range, Future[Drawn]] = {}

    def expect(self, sets: range) -> None:
        """Begins to draw for these sets; of those expected before, all but the latest are forgotten."""
        self._expected = dict(list(self._expected.items())[-1:]) | {sets: self._pool.submit(self._make, sets)}

    def take(self, sets: range) -> Drawn:
        """What these sets start from."""
        expected = self._expected.pop(sets, None)
        return self._make(sets) if expected is None else expected.result()

    def _make(self, sets: range) -> Drawn:
        starts, labels = self._draw(sets)
        return (starts.pin_memory(), labels.pin_memory()) if self._pin else (starts, labels)
