"""The two ways to watch a run: live bars for a terminal, plain lines for a pipe."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.cells import cell_len
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from cake_cli.cli.console import Console, count, duration
from cake_cli.events import Figure, Reporter, Stage
from cake_cli.text import counted, printable

LOG_SECONDS = 30.0
LOG_SHARE = 0.05
LEAST_LOG_SECONDS = 1.0
"""Between two lines of a stage, so that one that is soon over does not fill the screen."""
NAME_WIDTH, BAR_WIDTH, LEAST_BAR = 10, 24, 8
"""Cells of a stage's name at least, of its bar, and of a bar that leaves room for figures."""


def figure_texts(figures: dict[str, Figure]) -> list[str]:
    """``loss 0.112``, ``on target 98.4 %``."""
    return [
        f"{name.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"
        for name, value in figures.items()
    ]


class _StageLine:
    """What both kinds of stages share: the name, the count, the closing line."""

    def __init__(self, console: Console, name: str, total: int, unit: str) -> None:
        self.console = console
        self.name = name
        self.total = total
        self.unit = unit
        self.done = 0.0
        self.figures: dict[str, Figure] = {}
        self.summary = ""
        self.started = time.monotonic()

    @property
    def whole(self) -> str:
        """``1 epoch``, ``20,000 samples``."""
        return counted(self.total, self.unit)

    def conclude(self, summary: str) -> None:
        """What the closing line says."""
        self.summary = summary

    def close(self, fault: BaseException | None) -> None:
        """The closing line, if the stage came to its end."""
        if fault is None:
            summary = self.summary or self.whole
            line = Text("ok ", style="green").append(f"{self.name:<10}", style="bold")
            line.append(
                f" {printable(summary)}   {duration(time.monotonic() - self.started)}", style="not bold default"
            )
            if not self.console.quiet:
                self.console.stderr.print(line)


class _BarStage(_StageLine):
    def __enter__(self) -> Self:
        columns: list[ProgressColumn] = [
            TextColumn(f"{{task.description:<{NAME_WIDTH}}}", style="bold", markup=False),
            BarColumn(bar_width=BAR_WIDTH),
            _Course(self.console),
        ]
        self.progress = Progress(*columns, console=self.console.stderr, transient=True, refresh_per_second=5)
        self.task: TaskID = self.progress.add_task(printable(self.name), total=self.total, done="", rate="", figures=[])
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        self.close(fault)

    def advance(self, amount: float = 1, **figures: Figure) -> None:
        self.done += amount
        self.figures |= figures
        rate = self.done / max(time.monotonic() - self.started, 1e-3)
        self.progress.update(
            self.task,
            advance=amount,
            done=f"{int(self.done + 1e-6):,}/{self.total:,} {self.unit}",
            rate=rate_text(rate),
            figures=figure_texts(self.figures),
        )


class _Course(ProgressColumn):
    """What stands beside the bar: how far, how fast, how long yet, and figures; all on one line.

    A narrow terminal gets what fits: the rate gives way first, then the figures, then the bar, then the times.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(Column(no_wrap=True))
        self.console = console

    def render(self, task: Task) -> Text:
        left = "" if task.time_remaining is None else f" < {duration(task.time_remaining)}"
        times = Text(f"{duration(task.elapsed or 0.0)}{left}", style="cyan")
        done, rate = Text(task.fields["done"]), Text(task.fields["rate"])
        figures = [Text(figure) for figure in task.fields["figures"]]
        fewer = (_spaced(done, times, *figures[:kept]) for kept in range(len(figures), -1, -1))
        lines = [_spaced(done, rate, times, *figures), *fewer]
        room = self.console.stderr.width - max(NAME_WIDTH, cell_len(task.description)) - len("  ")
        beside_a_bar = next((line for line in lines if line.cell_len <= room - LEAST_BAR), lines[-1])
        return beside_a_bar if beside_a_bar.cell_len <= room else done


def _spaced(*parts: Text) -> Text:
    return Text("  ").join(part for part in parts if part)


def rate_text(rate: float) -> str:
    """``41.0 k/s``; slow things in units a minute."""
    return f"{count(rate)}/s" if rate >= 1 else f"{rate * 60:.1f}/min"


class _LogStage(_StageLine):
    def __enter__(self) -> Self:
        self.last_share, self.last_time = 0.0, time.monotonic()
        if self.console.progress == "log":
            self.console.say(f"{self.name}: {self.whole}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.progress == "log":
            self.close(fault)

    def advance(self, amount: float = 1, **figures: Figure) -> None:
        self.done += amount
        self.figures |= figures
        now, share = time.monotonic(), self.done / max(self.total, 1)
        waited = now - self.last_time
        due = waited >= (LEAST_LOG_SECONDS if share - self.last_share >= LOG_SHARE else LOG_SECONDS)
        if self.console.progress != "log" or not due or share > 1 - 1e-9:
            return
        self.last_share, self.last_time = share, now
        spent = now - self.started
        left = duration(spent / share * (1 - share)) if share else "?"
        text = "   ".join(figure_texts(self.figures))
        self.console.say(f"  {self.name} {share:4.0%}  {duration(spent)} < {left}" + (f"   {text}" if text else ""))


class BarReporter:
    """Live bars on a terminal, one at a time."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def stage(self, name: str, total: int, unit: str) -> Stage:
        """A stage with a bar."""
        return _BarStage(self.console, name, total, unit)

    def note(self, text: str) -> None:
        """A line."""
        self.console.say(text)

    def warn(self, text: str) -> None:
        """A warning."""
        self.console.warn(text)


class LogReporter(BarReporter):
    """Plain lines, every 5 % (at most one a second) or 30 seconds; or none, by the console's setting."""

    def stage(self, name: str, total: int, unit: str) -> Stage:
        """A stage in lines."""
        return _LogStage(self.console, name, total, unit)


def reporter_of(console: Console) -> Reporter:
    """Who watches a run on this console."""
    return BarReporter(console) if console.progress == "bar" else LogReporter(console)
