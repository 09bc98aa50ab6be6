"""`cake` in processes of their own, forked from one that has imported everything: a start costs milliseconds.

Signals sent to them are real signals to real processes. What such a process says goes to a file.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.cli.killing import FORKS, hear
from tests.faults.moments import watch
from tests.faults.strikes import Signal, Strike

LONGEST = 300.0
"""Seconds after which a process that has not ended counts as hanging."""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int | None
    """Exit code, or minus the signal; None if it hung."""
    said: str
    """stdout and stderr."""
    seconds: float
    struck: str = ""
    """The moment at which it was struck, if that was chosen."""


def _signals_as_in_a_shell() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run(folder: str, words: list[str], said: str, prepare: Callable[[], None] | None) -> None:
    began = False
    try:
        os.chdir(folder)
        hear(said)
        _signals_as_in_a_shell()
        from cake_cli.__main__ import main

        sys.argv = ["cake", *words]
        if prepare is not None:
            prepare()
        began = True
        main()
    except KeyboardInterrupt:
        if began:
            raise
        os._exit(130)  # struck before it was `cake`
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    os._exit(99)


@dataclass(frozen=True)
class Watched:
    """What a process does before it runs `cake`: watch its moments, save the generator after each update."""

    note: str
    strike_at: int = 0
    strike: Strike = field(default_factory=lambda: Signal(signal.SIGKILL))

    def __call__(self) -> None:
        save_at_each_update()
        watch(Path(self.note), self.strike_at, self.strike)


def save_at_each_update() -> None:
    """A generator's checkpoint is written after each of its updates, not every twenty seconds."""
    from cake_cli.synthesis import generative

    generative.CHECKPOINT_SECONDS = 0.0


def start(folder: Path, words: Sequence[object], said: Path, prepare: Callable[[], None] | None = None) -> BaseProcess:
    """Starts a command line in a folder."""
    process = FORKS.Process(target=_run, args=(str(folder), [str(word) for word in words], str(said), prepare))
    process.start()
    return process


def run(
    folder: Path,
    words: Sequence[object],
    said: Path,
    prepare: Callable[[], None] | None = None,
    *,
    number: int = 0,
    after: float = 0.0,
) -> Ended:
    """Runs a command line to its end, or sends it a signal some seconds after its start.

    Args:
        folder: where it runs.
        words: after ``cake``.
        said: file for what it says.
        prepare: called in the process before.
        number: of the signal; 0 for none.
        after: seconds until the signal.
    """
    said.unlink(missing_ok=True)
    began = time.monotonic()
    process = start(folder, words, said, prepare)
    if number:
        while process.exitcode is None and not said.exists():  # before that it is not `cake`, but a fork
            time.sleep(0.001)
        process.join(after)
        if process.exitcode is None and process.pid is not None:
            os.kill(process.pid, number)
    process.join(LONGEST)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    text = said.read_text(encoding="utf-8", errors="replace") if said.exists() else ""
    return Ended(code, text, time.monotonic() - began)
