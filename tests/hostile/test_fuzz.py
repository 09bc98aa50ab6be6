"""A sample of the fuzzer: every kind of input a few times; the long form is `python -m tests.hostile.fuzz`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.hostile import mutate
from tests.hostile.forking import Bounds, Ended, fork
from tests.hostile.fuzz import judge
from tests.hostile.serving import ROOT

INPUTS = 69
"""Six of each kind."""


def test_damaged_files_end_in_a_sentence(tmp_path: Path):
    out = tmp_path / "verdicts.jsonl"
    command = [sys.executable, "-m", "tests.hostile.fuzz", "--inputs", str(INPUTS), "--seed", "7", "--out", str(out)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(verdicts) == INPUTS
    assert {verdict["fault"] for verdict in verdicts} == {None}
    assert {verdict["code"] for verdict in verdicts} >= {0, 3, 4}


@pytest.mark.parametrize(
    ("ended", "word"),
    [
        ({"code": 1, "err": b"error: this is a bug in cake\n"}, "exit code 1"),
        ({"code": None, "signal": 11}, "crash"),
        ({"code": None, "signal": 9}, "hangs"),
        ({"code": 3, "err": b"error: \x1b[31mred\n"}, "raw control"),
        ({"code": 0, "out": "\x9b31m".encode()}, "raw control"),
        ({"code": 3, "err": b"error: Traceback (most recent call last)\n"}, "traceback"),
        ({"code": 5, "err": b"error: memory ran out\n"}, "memory"),
        ({"code": 4, "err": b"no sentence\n"}, "without a sentence"),
        ({"code": 0, "out": b"canary-5c1f"}, "nobody named"),
        ({"code": 0, "network": "socket.connect"}, "network"),
    ],
)
def test_what_counts_as_a_fault(ended: dict, word: str):
    plain = {"code": 0, "signal": None, "seconds": 0.1, "peak": 1, "out": b"", "err": b""}
    assert word in str(judge(Ended(**(plain | ended)), None, ""))
    assert judge(Ended(**plain), None, "") is None


def test_a_seed_names_an_input_for_ever():
    content = bytes(range(256))
    for mutator in (mutate.any_bytes, mutate.flip, mutate.lengthen):
        assert mutator(content, Random("0-1")) == mutator(content, Random("0-1"))
        assert any(mutator(content, Random(f"0-{number}")) != content for number in range(9))


def test_bounds_hold(tmp_path: Path):
    """In a process without threads, which may fork."""
    script = (
        "import sys; from pathlib import Path; from tests.hostile.test_fuzz import bounded; bounded(Path(sys.argv[1]))"
    )
    made = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, check=False)
    assert made.returncode == 0, made.stderr.decode()


def bounded(folder: Path) -> None:
    """Children that ask for too much, of everything."""
    bounds = Bounds(memory=2**28, seconds=1.0, file=2**20)
    assert fork(lambda: len(bytearray(2**29)), folder, bounds).code == 99
    assert fork(_sleep, folder, bounds).hung
    assert fork(lambda: (folder / "large").write_bytes(bytes(2**21)), folder, bounds).code != 0
    assert fork(lambda: 7, folder, bounds).code == 7


def _sleep() -> None:
    import time

    time.sleep(30)
