"""What happens during a run, told to whoever watches: the terminal, a log, a test, or nobody.

Algorithms are given a `Reporter` and never print. `SILENT` is the null version.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

Figure = float | int | str
"""A figure beside a bar: a number that the watcher formats, or text."""


class Stage(Protocol):
    """One stretch of work with a known length; a context manager that ends it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def advance(self, amount: float = 1, **figures: Figure) -> None:
        """`amount` more units (a fraction is fine) are done; `figures` replace those shown so far."""

    def conclude(self, summary: str) -> None:
        """What the line of the finished stage says, beside its name and time."""


class Reporter(Protocol):
    """Receives the course of a run."""

    def stage(self, name: str, total: int, unit: str) -> Stage:
        """Begins a stage of `total` units (samples, epochs, images)."""

    def note(self, text: str) -> None:
        """A fact worth a line."""

    def warn(self, text: str) -> None:
        """Something that the user should look into; the run goes on."""


class _SilentStage:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def advance(self, amount: float = 1, **figures: Figure) -> None:
        pass

    def conclude(self, summary: str) -> None:
        pass


class SilentReporter:
    """Nobody watches."""

    def stage(self, name: str, total: int, unit: str) -> Stage:
        """A stage that goes unseen."""
        return _SilentStage()

    def note(self, text: str) -> None:
        """Goes unread."""

    def warn(self, text: str) -> None:
        """Goes unread."""


SILENT: Reporter = SilentReporter()
