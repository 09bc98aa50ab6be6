"""``cake`` and ``python -m cake_cli``."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

STOPPING = (signal.SIGTERM, signal.SIGINT)
INTERRUPTED = 130


def main() -> None:
    """Runs the command line and exits with its code."""
    code = INTERRUPTED  # of a signal before there was anything to stop
    with suppress(KeyboardInterrupt):
        for name in STOPPING:
            if signal.getsignal(name) is not signal.SIG_IGN:
                signal.signal(name, _interrupt)
        from cake_cli.cli.app import run

        code = run(sys.argv[1:])
    for name in STOPPING:  # it has ended, and says so
        signal.signal(name, signal.SIG_IGN)
    if code == INTERRUPTED:
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> None:
    """Exits at once, with what was said.

    An interrupt that comes while Python runs code of a string, as it does to make a data class, is remembered by the
    interpreter even where it was caught, and the usual exit of ``python -m`` then ends as if killed by SIGINT.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _interrupt(number: int, frame: object) -> None:
    """SIGTERM ends like Ctrl-C, so that nothing half written is left."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
