"""From an exception to a sentence, what to try, and an exit code: the one place that renders errors."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable

import typer
from rich.text import Text

from cake_cli.cli import mistyped
from cake_cli.cli.console import Terminal, silence
from cake_cli.errors import CakeError
from cake_cli.text import printable

INTERRUPTED = 130
LINGER_SECONDS = 10.0
"""How long a rank that failed leaves the word to the first."""
_REFUSALS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EMFILE,
    errno.ENOSPC,
}
"""How a system refuses a path that the user gave: no bug of ours."""

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""How torch says it, of a GPU and of the CPU."""


def show(what: str, fix: str | None) -> None:
    """``error:`` one sentence, then ``try:`` what to type, on stderr."""
    console = Terminal(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(Text("error: ", style="bold red").append(printable(what), style="not bold default"))
    if fix:
        console.print(Text("try:   ", style="bold").append(printable(fix), style="not bold default"))


def guarded(command: Callable[[], object]) -> int:
    """Runs a command line and returns its exit code; nothing escapes."""
    try:
        code = command()
        if code == INTERRUPTED:  # Typer's answer to an interrupt that no command has caught
            raise KeyboardInterrupt
    except BaseException as fault:
        return _ending(fault) if _is_ours_to_tell(fault) else INTERRUPTED
    return code if isinstance(code, int) else 0


def _is_ours_to_tell(fault: BaseException) -> bool:
    """Whether this process should say what happened; of a job's ranks the first speaks for all.

    It hears what went wrong elsewhere and ends, and torchrun then ends the others. A rank after the first so gives it
    time, and speaks for itself only if nothing comes of that.
    """
    from cake_cli.cli.running import RankDied
    from cake_cli.ranks import Ranks

    if Ranks.current().is_first or isinstance(fault, RankDied):
        return True
    if isinstance(fault, KeyboardInterrupt) or getattr(fault, "exit_code", None) == INTERRUPTED:
        return False
    time.sleep(LINGER_SECONDS)
    return True


def _ending(fault: BaseException) -> int:
    """Says what happened, and returns the exit code of it."""
    ending: tuple[str, str | None, int]
    if isinstance(fault, CakeError):
        ending = fault.what, fault.fix, fault.exit_code
    elif isinstance(fault, typer.TyperException):
        ending = mistyped.sentence(fault), mistyped.help_of(fault), 2
    elif isinstance(fault, (KeyboardInterrupt, typer.Abort)):
        ending = "interrupted", "the same command starts afresh", INTERRUPTED
    elif isinstance(fault, BrokenPipeError) or isinstance(fault.__context__, BrokenPipeError):
        return _nobody_reads()
    elif isinstance(fault, OSError) and fault.errno in _REFUSALS:
        ending = (
            f"{fault.filename or 'the output'}: {fault.strerror}",
            "check the path, its disk and its permissions",
            5,
        )
    elif isinstance(fault, MemoryError) or any(words in str(fault).lower() for words in _NO_MEMORY):
        ending = "memory ran out", "a smaller --batch-size or --samples, or --device cpu", 5
    elif isinstance(fault, Exception):
        ending = _bug(fault)
    else:
        raise fault
    what, fix, code = ending
    if what:
        show(f"{_rank()}{what}", fix)
    return code


def _rank() -> str:
    """``rank 1: `` before what a rank after the first has to say."""
    from cake_cli.ranks import Ranks

    ranks = Ranks.current()
    return "" if ranks.is_first else f"rank {ranks.rank}: "


def _nobody_reads() -> int:
    """The reader of stdout has gone, as with `cake students | head`: an end like any other."""
    silence(sys.stdout)
    return 0


def _bug(fault: Exception) -> tuple[str, str, int]:
    handle, name = tempfile.mkstemp(prefix="cake-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as log:
        log.writelines(traceback.format_exception(fault))
    what = f"this is a bug in cake: {type(fault).__name__}: {str(fault)[:300]}"
    return what, f"report it with the traceback in {name}", 1
