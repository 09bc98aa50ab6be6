"""A warm process that runs command lines in bounded children: one for a whole session of tests.

It speaks lines of JSON: ``{"arguments": [...], "folder": ..., "seconds": ...}`` in, how it ended out. The tests' own
process has threads by the time they run, and must not fork.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.hostile.forking import Bounds, Ended, run_cake, warm_up

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """The process, as a context manager."""

    def __enter__(self) -> Self:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.serving"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        return self

    def __exit__(self, kind: type | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

    def run(self, arguments: list[str], folder: Path, seconds: float = Bounds.seconds) -> Ended:
        """``cake ARGUMENTS`` in a child that may use `folder`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"arguments": arguments, "folder": str(folder), "seconds": seconds}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        told = json.loads(self.process.stdout.readline())
        said = {name: (folder / file).read_bytes() for name, file in (("out", "stdout"), ("err", "stderr"))}
        return Ended(**told, **said, network=(folder / "network").read_text())


def main() -> None:
    """Answers until its input ends."""
    warm_up()
    for line in sys.stdin:
        asked = json.loads(line)
        ended = run_cake(asked["arguments"], Path(asked["folder"]), Bounds(seconds=asked["seconds"]))
        told = {"code": ended.code, "signal": ended.signal, "seconds": ended.seconds, "peak": ended.peak}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
