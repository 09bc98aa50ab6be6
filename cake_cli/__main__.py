"""``cake`` and ``python -m cake_cli``."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

STOPPING = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    """Runs the command line and exits with its code."""
    code = 130  # of a signal before there was anything to stop
    with suppress(KeyboardInterrupt):
        for name in STOPPING:
            if signal.getsignal(name) is not signal.SIG_IGN:
                signal.signal(name, _interrupt)
        from cake_cli.cli.app import run

        code = run(sys.argv[1:])
    for name in STOPPING:  # it has ended, and says so
        signal.signal(name, signal.SIG_IGN)
    sys.exit(code)


def _interrupt(number: int, frame: object) -> None:
    """SIGTERM ends like Ctrl-C, so that nothing half written is left."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
