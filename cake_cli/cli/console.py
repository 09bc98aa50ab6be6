"""What is written where: stdout carries the result, stderr everything else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Literal, TextIO

from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from cake_cli.cli.options import Progress
from cake_cli.text import printable, printable_json

PIPE_WIDTH = 10_000
"""Columns of a table that is not read on a terminal."""
LEAST_TEXT, GAP = 16, 3
"""Characters of a first column that can still be read, and between two columns."""


class Terminal(RichConsole):
    """Goes on in silence when its reader has gone, as `head` does once it has enough: what is made is on the disk."""

    def on_broken_pipe(self) -> None:
        """Called by rich, whose own way is to end the program."""
        self.quiet = True
        silence(sys.stderr if self.stderr else sys.stdout)


def silence(stream: TextIO | None) -> None:
    """Has a stream whose reader has gone write to nowhere from now on: the last flush would complain."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


class Console:
    """The terminal, or the pipe that stands in for it; mute on all ranks of a job but the first.

    Args:
        quiet: nothing but results and errors.
        verbose: also what was measured.
        json_output: the result is one JSON object.
        progress: bars, lines, or none.
    """

    def __init__(
        self, *, quiet: bool = False, verbose: bool = False, json_output: bool = False, progress: Progress = "auto"
    ) -> None:
        from cake_cli.ranks import Ranks

        self.quiet = quiet
        self.verbose = verbose
        self.json_output = json_output
        self.mute = not Ranks.current().is_first
        self.stderr = Terminal(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=self.mute)
        self.progress = "none" if self.mute else self._resolve(progress)

    def _resolve(self, progress: Progress) -> Progress:
        if self.quiet and progress == "auto":
            return "none"
        if progress != "auto":
            return progress
        plain = os.environ.get("CI") or os.environ.get("TERM") == "dumb" or not self.stderr.is_terminal
        return "log" if plain else "bar"

    def say(self, text: str = "", style: str | None = None) -> None:
        """A line on stderr, unless quiet."""
        if not self.quiet:
            self.stderr.print(Text(printable(text), style=style or ""))

    def warn(self, text: str) -> None:
        """A warning on stderr, also when quiet."""
        self.stderr.print(Text("warning: ", style="yellow").append(printable(text), style="default"))

    def facts(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """A block of named lines on stderr."""
        self.say(title, style="bold")
        width = max((len(name) for name, _ in rows), default=0)
        for name, value in rows:
            if not self.quiet:
                line = Text(f"  {name:<{width}}  ", style="cyan").append(printable(value), style="default")
                self.stderr.print(line)

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, result: bool = False, prose: bool = False
    ) -> None:
        """A table: on stdout if it is the result, else on stderr unless quiet.

        The first column is text and wraps where it must; the others are figures, which are never cut short: where the
        terminal is too narrow for them, each row is a block of lines. With `prose` all are text, and the last one
        wraps. A pipe gets a row a line, however long.
        """
        if (self.quiet and not result) or self.mute:
            return
        target = Terminal(highlight=False, markup=False, emoji=False) if result else self.stderr
        if not prose and target.is_terminal and _least_width(columns, rows) > target.width:
            for row in rows:
                target.print(Text(printable(row[0])), soft_wrap=True)
                width = max(map(cell_len, columns))
                for column, cell in zip(columns[1:], row[1:], strict=True):
                    if cell:
                        target.print(Text(f"  {column:<{width}}  {printable(cell)}"), soft_wrap=True)
            return
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        for index, column in enumerate(columns):
            wraps = index == (len(columns) - 1 if prose else 0)
            justify: Literal["left", "right"] = "left" if prose or index == 0 else "right"
            table.add_column(column, justify=justify, no_wrap=not wraps, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        if target.is_terminal:
            target.print(table)
            return
        target.width = PIPE_WIDTH
        with target.capture() as padded:
            target.print(table)
        for line in padded.get().splitlines():
            target.print(Text(line.rstrip()), soft_wrap=True)

    def result(self, text: str) -> None:
        """A line of the result, on stdout."""
        self._print(printable(text))

    def json(self, content: Any) -> None:
        """The result as one JSON object, on stdout."""
        self._print(printable_json(content))

    def _print(self, text: str) -> None:
        if self.mute or sys.stdout is None:  # closed, as by `>&-`
            return
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            silence(sys.stdout)


def _least_width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Columns of a terminal that a table of figures needs, its first column being wrapped to `LEAST_TEXT`."""
    widths = [max(cell_len(cell) for cell in cells) for cells in zip(columns, *rows, strict=True)]
    return min(widths[0], LEAST_TEXT) + sum(GAP + width for width in widths[1:])


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``1m40``, ``2h05``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    return f"{minutes // 60}h{minutes % 60:02d}" if seconds >= 3600 else f"{minutes}m{int(seconds % 60):02d}"


def count(number: float) -> str:
    """``21.3 M``, ``94.6 k``, ``512``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"


def size(number: float) -> str:
    """``2.3 GiB``, ``14 MiB``, ``90 kiB``, ``84 B``."""
    if 0 < number < 1024:
        return f"{number:.0f} B"
    for unit, step in (("GiB", 2**30), ("MiB", 2**20)):
        if number >= step:
            return f"{number / step:.1f} {unit}"
    return f"{number / 1024:.0f} kiB"
