"""``cake`` and ``python -m cake_cli``."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Runs the command line and exits with its code."""
    try:
        for name in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(name) is not signal.SIG_IGN:
                signal.signal(name, _interrupt)
        from cake_cli.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before there was anything to stop
        code = 130
    sys.exit(code)


def _interrupt(number: int, frame: object) -> None:
    """SIGTERM ends like Ctrl-C, so that nothing half written is left."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
