"""Memory and start-up as banks grow: ``python -m tests.faults.load --samples 10000 100000 1000000``.

For each size: a bank of 1x4x4 images with one step, an npz copy of it, a student that learns one epoch, its evaluation
on the copy, and `cake inspect` of the bank, each in a process of its own. Printed is the peak of anonymous memory, what
of it is meant to grow with the bank, and the rest, which is not to grow.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.conftest import ROOT, save_mlp

INPUT = (1, 4, 4)
CLASSES = 3
VALUES = 16
LOOK_SECONDS = 0.005
GOAL = 1.2
"""Largest over smallest rest."""
START_UP = 2.0
"""Seconds in which `cake inspect` of the largest bank ends."""


@dataclass(frozen=True)
class Measured:
    """One command on a bank of one size."""

    samples: int
    command: str
    seconds: float
    peak: int
    """Bytes: the highest resident anonymous memory (what is mapped from files the system can drop)."""
    meant: int
    """Bytes of it that are meant to be resident in this command, see `meant`."""

    @property
    def rest(self) -> int:
        """Bytes that are not to grow."""
        return self.peak - self.meant


def meant(command: str, samples: int) -> int:
    """Bytes that a command is to hold for a bank of so many samples.

    Training holds the learned and held-out samples where they fit in half of the free memory (an input, its logits),
    and for each sample the step size (4), its place in the bank (8), the order of the epoch (8) and, while both
    are there, one more such number (8). The others go through the bank piece by piece.
    """
    if command != "train":
        return 0
    return samples * (4 * (VALUES + CLASSES) + 4 + 8 + 8 + 8)


def measured(folder: Path, words: Sequence[object], samples: int) -> Measured:
    """Runs a command line and watches its memory.

    Raises:
        RuntimeError: if it fails.
    """
    command = [sys.executable, "-m", "cake_cli", *map(str, words)]
    began, peak = time.monotonic(), 0
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=said, stderr=said
        )
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(LOOK_SECONDS)
    if process.returncode:
        raise RuntimeError(f"{words}: {(folder / 'said').read_text()}")
    name = str(words[0])
    return Measured(samples, name, time.monotonic() - began, peak, meant(name, samples))


def _anonymous(pid: int) -> int:
    """Resident bytes of a process that no file backs."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return 1024 * (int(found.get("RssAnon", 0)) + int(found.get("RssShmem", 0)))


def at(folder: Path, samples: int) -> list[Measured]:
    """All commands with a bank of one size, in an empty folder."""
    save_mlp(folder / "teacher.onnx", shape=INPUT, classes=CLASSES)
    bank = ["synthesize", "teacher.onnx", "-o", "bank", "--samples", samples, "--steps", 1, "--format", "npz"]
    train = ["train", "bank", "--student", "linear", "--epochs", 1, "--set", "training.batch_size=512", "-o", "run"]
    commands: list[list[object]] = [
        [*bank, "--plan", "plain"],
        [*train, "--no-report"],
        ["evaluate", "run", "--data", "bank/samples.npz", "--against", "teacher.onnx"],
        ["inspect", "bank"],
    ]
    found = [measured(folder, words, samples) for words in commands]
    files = sum(1 for path in (folder / "bank").rglob("*") if path.is_file())
    if files > 10 + samples // 100:
        raise RuntimeError(f"{files} files for {samples} samples")
    return found


def table(found: Sequence[Measured]) -> str:
    """What was measured, and the ratios."""
    lines = [f"{'command':<12}{'samples':>12}{'seconds':>10}{'peak MiB':>10}{'meant MiB':>11}{'rest MiB':>10}"]
    for name in dict.fromkeys(one.command for one in found):
        own = [one for one in found if one.command == name]
        for one in own:
            sizes = (one.peak, one.meant, one.rest)
            mib = "".join(f"{value / 2**20:>{width}.1f}" for value, width in zip(sizes, (10, 11, 10), strict=True))
            lines.append(f"{name:<12}{one.samples:>12,}{one.seconds:>10.1f}{mib}")
        lines.append(f"{'':<12}largest rest over smallest: {spread(own):.3f}")
    return "\n".join(lines)


def spread(found: Sequence[Measured]) -> float:
    """Largest over smallest rest."""
    rests = [one.rest for one in found]
    return max(rests) / min(rests)


def main() -> int:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path, help="results as JSON lines")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found: list[Measured] = []
    for samples in asked.samples:
        with tempfile.TemporaryDirectory(prefix="cake-load-") as folder:
            found += at(Path(folder), samples)
    print(table(found))
    if asked.out is not None:
        asked.out.write_text("".join(json.dumps(asdict(one)) + "\n" for one in found))
    names = {one.command for one in found}
    bounded = all(spread([one for one in found if one.command == name]) <= GOAL for name in names)
    return 0 if bounded else 1


if __name__ == "__main__":
    sys.exit(main())
