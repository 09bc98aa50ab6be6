"""Real processes under torchrun: one is killed, the job says so, and any number of others goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cake_cli.cli import failures, running
from cake_cli.errors import RunError
from cake_cli.synthesis.arithmetic import same_threads
from cake_cli.synthesis.bank import SampleBank
from tests.cli.conftest import snapshot
from tests.cli.killing import on_ranks
from tests.conftest import DIGITS, ROOT, Outcome

Cake = Callable[..., Outcome]
BUDGET = ["--samples", "240", "--steps", "3", "--set", "set_size=30", "--set", "sets_at_once=1", "--format", "npz"]
"""Eight waves."""
STRUCK = """
import os, sys, time
from pathlib import Path
from cake_cli.cli.app import run
from cake_cli.locks import is_left_over
from tests.cli.killing import kill_at
kill_at("shard-", 1, only_rank="1")
if os.environ["RANK"] == "0":
    fsync = os.fsync
    def patient(descriptor):
        while "shard-" in os.readlink(f"/proc/self/fd/{descriptor}") and not is_left_over(Path("bank/.lock-1")):
            time.sleep(0.05)
        fsync(descriptor)
    os.fsync = patient
sys.exit(run(sys.argv[1:]))
"""
"""The second rank is killed in its first shard, and the first finishes none before that."""


def torchrun(ranks: int, *arguments: object, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["--log-dir", str(folder / "logs")]  # else in the system's folder for temporary files, and left there
    return subprocess.Popen(
        [*command, *(str(word) for word in arguments)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_rank_is_killed_and_one_two_or_three_go_on(cake: Cake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    teacher = DIGITS / "teacher.onnx"
    (tmp_path / "struck.py").write_text(STRUCK)
    job = torchrun(2, "struck.py", "synthesize", teacher, *BUDGET, "-o", "bank", folder=tmp_path)
    out, err = job.communicate(timeout=300)
    assert job.returncode != 0
    assert out == ""
    assert "error: rank 1 of 2 died without a word (killed, perhaps for memory); finished shards are kept\n" in err
    assert "try:   cake resume bank, with as many ranks as you like\n" in err
    assert err.count("error: ") == 1
    stopped = SampleBank.open(tmp_path / "bank")
    assert not stopped.is_complete
    assert stopped.finished_waves < 8

    folders = {ranks: tmp_path / f"by-{ranks}" for ranks in (1, 2, 3)}
    for folder in folders.values():
        shutil.copytree(tmp_path / "bank", folder / "bank")
    job = torchrun(2, "-m", "cake_cli", "resume", "bank", folder=folders[2])
    monkeypatch.chdir(folders[1])
    resumed = cake("resume", "bank", "-q")
    assert (resumed.code, resumed.out) == (0, "bank\n"), resumed.err
    assert on_ranks(3, folders[3], ["resume", "bank"]) == [0, 0, 0]
    said = [(folders[3] / f"said-{rank}").read_text() for rank in range(3)]
    assert ("ok synthesis  240 samples" in said[0], said[1:]) == (True, ["", ""])
    out, err = job.communicate(timeout=300)
    assert (job.returncode, out) == (0, "bank\n"), err
    assert err.count("ok synthesis") == 1, "only the first rank speaks"

    monkeypatch.chdir(tmp_path)
    with same_threads(SampleBank.open(Path("bank"))):  # torchrun gives each rank one
        assert cake("synthesize", teacher, *BUDGET, "-o", "whole").code == 0
    for folder in folders.values():
        assert snapshot(folder / "bank") == snapshot(Path("whole"))


def test_ranks_after_the_first_leave_the_word_to_it(cake: Cake, monkeypatch: pytest.MonkeyPatch):
    environment = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    waited = []
    monkeypatch.setattr(failures.time, "sleep", waited.append)
    outcome = cake("synthesize", "teacher.onnx", "--steps", "-1")
    assert outcome.code == 2
    assert waited == [failures.LINGER_SECONDS], "torchrun would have ended it meanwhile"
    assert outcome.err.startswith("error: rank 1: ")
    assert cake("students").out == ""


@pytest.mark.parametrize("rank", [0, 1])
def test_torchruns_signal_does_not_silence_the_first(monkeypatch: pytest.MonkeyPatch, rank: int):
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    heard: list[int] = []
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(RunError, match="another of 2 ranks died"), running.terminable():
            raise RunError("another of 2 ranks died", None)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
    assert heard == [signal.SIGTERM] * rank


def test_an_interrupt_that_no_command_caught_is_told(capsys: pytest.CaptureFixture[str]):
    assert failures.guarded(lambda: 130) == 130, "as Typer returns it"
    assert capsys.readouterr().err == "error: interrupted\ntry:   the same command starts afresh\n"


def test_an_interrupted_rank_is_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(failures.time, "sleep", lambda seconds: pytest.fail("it waits for nothing"))

    def interrupted() -> None:
        raise KeyboardInterrupt

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    assert failures.guarded(interrupted) == 130
    assert capsys.readouterr().err == ""
