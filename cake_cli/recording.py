"""What happens during a run, kept in its directory on the way to whoever watches."""

from __future__ import annotations

from collections.abc import Callable

from cake_cli.events import Reporter, Stage
from cake_cli.runs import RunDirectory


class RecordingReporter:
    """Passes everything on, and keeps warnings, notes and finished stages in the run's log.

    Args:
        inner: who watches.
        run: the run directory.
        label: said before the name of each stage, each note and each warning, where several runs are watched together.
    """

    def __init__(self, inner: Reporter, run: RunDirectory, label: str = "") -> None:
        self.inner = inner
        self.run = run
        self.label = label

    def stage(self, name: str, total: int, unit: str) -> Stage:
        """A stage whose closing line is logged, too."""
        self.run.log([f"{name}: {total:,} {unit}"])
        stage = self.inner.stage(f"{self.label} {name}".strip(), total, unit)
        return _logging_conclusion(stage, lambda text: self.run.log([f"ok {name}: {text}"]))

    def note(self, text: str) -> None:
        """A line, here and in the log."""
        self.run.log([text])
        self.inner.note(self._labelled(text))

    def warn(self, text: str) -> None:
        """A warning, here, in the log and in run.json."""
        self.run.log([f"warning: {text}"])
        self.run.warn(text)
        self.inner.warn(self._labelled(text))

    def _labelled(self, text: str) -> str:
        if text.startswith("   ") or not self.label:  # goes on with a line before
            return text
        return f"{self.label}: {text}"


def _logging_conclusion(stage: Stage, log: Callable[[str], None]) -> Stage:
    conclude = stage.conclude

    def both(summary: str) -> None:
        log(summary)
        conclude(summary)

    stage.conclude = both  # type: ignore[method-assign]
    return stage
