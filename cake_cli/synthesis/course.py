"""The course of a synthesis over all ranks: whose turn it is, how far all are, when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from cake_cli.events import Figure, Stage
from cake_cli.ranks import Ranks

LOOK_SECONDS = 0.25
"""Between two looks at the clock and at the other ranks."""
POLL_SECONDS = 0.05
_PARTS = 1000
"""Parts of a sample that the ranks' common counter counts."""


class TimeIsUp(Exception):
    """The time budget is spent; the wave in progress is given up."""


class Course:
    """A `Stage` for the engine, which adds up all ranks on the first one's stage, and stops what must not go on.

    Args:
        stage: where progress is shown, in samples.
        ranks: the processes that share the work.
        spent: seconds of synthesis in earlier attempts.
        budget: seconds that all attempts may take together, or None.
    """

    def __init__(self, stage: Stage, ranks: Ranks, *, spent: float = 0.0, budget: float | None = None) -> None:
        self._stage = stage
        self.ranks = ranks
        self._board = ranks.new_board("synthesis")
        self._spent, self._started, self._budget = spent, time.monotonic(), budget
        self._watch: Callable[[], None] | None = None
        self._figures: dict[str, Figure] = {}
        self._next_look = 0.0
        self._mine = self._told = self._shown = self._wave = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @property
    def spent(self) -> float:
        """Seconds of synthesis until now, over all attempts."""
        return self._spent + time.monotonic() - self._started

    @property
    def is_over_time(self) -> bool:
        """Whether the time budget is spent."""
        return self._budget is not None and self.spent >= self._budget

    def watch(self, check: Callable[[], None]) -> None:
        """Has `check` called at every look: it may raise."""
        self._watch = check

    def next_turn(self) -> int:
        """A number that no other rank gets, from 0.

        Raises:
            TimeIsUp: if the time budget is spent.
        """
        self._look()
        return self._board.add("turns", 1) - 1

    def begin_wave(self) -> None:
        """What is advanced from here on belongs to a wave, and can be taken back."""
        self._wave = 0.0

    def take_back(self) -> None:
        """The wave will be made once more: its progress is undone."""
        self.advance(-self._wave)
        self._wave = 0.0

    def advance(self, amount: float = 1, **figures: Figure) -> None:
        """See `Stage.advance`; raises what stops the work: `TimeIsUp`, or the fault of writer or other ranks."""
        self._mine += amount
        self._wave += amount
        self._stage.advance(amount, **figures)
        if time.monotonic() >= self._next_look:
            self._look()

    def conclude(self, summary: str) -> None:
        """See `Stage.conclude`."""
        self._stage.conclude(summary)

    def shows(self, **figures: Figure) -> None:
        """Figures to show at the next look; may be called from another thread."""
        self._figures = self._figures | figures

    def wait_for_all(self) -> None:
        """Ends this rank's part, and on the first rank waits for the others'."""
        self._look(stop_in_time=False)
        self._board.add("finished", 1)
        while self.ranks.is_first and self._board.add("finished", 0) < self.ranks.world:
            time.sleep(POLL_SECONDS)
            self._look(stop_in_time=False)

    def _look(self, *, stop_in_time: bool = True) -> None:
        self._next_look = time.monotonic() + LOOK_SECONDS
        if self._watch is not None:
            self._watch()
        if not self.ranks.is_alone:
            self._share()
            self.ranks.check_others()
        figures, self._figures = self._figures, {}
        if figures:
            self._stage.advance(0, **figures)
        if stop_in_time and self.is_over_time:
            raise TimeIsUp

    def _share(self) -> None:
        """Tells the others of our progress, and shows theirs."""
        fresh = round(_PARTS * (self._mine - self._told))
        self._told += fresh / _PARTS
        others = self._board.add("parts", fresh) / _PARTS - self._told
        self._stage.advance(others - self._shown)
        self._shown = others
