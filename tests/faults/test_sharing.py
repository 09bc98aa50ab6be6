"""Two processes and one folder, a clock that jumps, paths of all kinds."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cake_cli import locks, runs
from tests.cli.conftest import SYNTHESIS, TINY, record, refusal, snapshot, weights
from tests.conftest import Outcome, save_mlp
from tests.faults import children
from tests.faults.strikes import Signal

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc"),
    pytest.mark.filterwarnings("ignore:resource_tracker"),
]
Cake = Callable[..., Outcome]


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return save_mlp(tmp_path / "teacher.onnx")


@dataclass(frozen=True)
class _Halted:
    """Stops, as if it were slow, while the second shard is half written."""

    note: str

    def __call__(self) -> None:
        from cake_cli.synthesis.bank import SampleBank
        from tests.faults.moments import watch

        add = SampleBank.add

        def slow(bank: SampleBank, *arguments: object, **keywords: object) -> object:
            if bank.finished_waves == 1:
                watch(Path(self.note), 1, Signal(signal.SIGSTOP))
            return add(bank, *arguments, **keywords)  # type: ignore[arg-type]

        SampleBank.add = slow  # type: ignore[assignment, method-assign]


def until(is_so: Callable[[], bool]) -> None:
    """Waits."""
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_who_works_in_a_folder_is_named_and_not_disturbed(cake: Cake, teacher: Path, tmp_path: Path):
    process = children.start(tmp_path, ["distill", teacher, *TINY, "-o", "out"], tmp_path / "said", _Halted("note"))
    try:
        until((tmp_path / "note").exists)
        until(lambda: _state(process.pid or 0) == "T")
        assert list(Path("out/bank").glob(".partial-*"))
        again = ["distill", teacher, *TINY, "-o", "out"]
        bank = ["synthesize", teacher, *SYNTHESIS, "-o", "out/bank", "--force"]
        for words in (["resume", "out"], again, [*again, "--force"], bank):
            said = refusal(cake(*words), 4)
            holder = rf"in use by process {process.pid} on {re.escape(socket.gethostname())}, since 20\d\d-.*\+00:00"
            assert re.search(holder, said), said
        for words in (["inspect", "out"], ["inspect", "out/bank"], ["report", "out"]):
            assert cake(*words).code == 0, "who only looks may"
    finally:
        os.kill(process.pid or 0, signal.SIGCONT)
    process.join(60)
    assert process.exitcode == 0, (tmp_path / "said").read_text()
    assert cake("distill", teacher, *TINY, "-o", "alone").code == 0
    assert weights(Path("out")) == weights(Path("alone"))


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("command", ["synthesize", "distill"])
def test_of_two_that_start_at_once_one_is_refused(cake: Cake, teacher: Path, tmp_path: Path, command: str):
    flags = SYNTHESIS if command == "synthesize" else TINY
    words = [[command, teacher, *flags, "--seed", seed, "-o", "out"] for seed in (0, 1)]
    processes = [children.start(tmp_path, line, tmp_path / f"said-{seed}") for seed, line in enumerate(words)]
    for process in processes:
        process.join(60)
    codes = [process.exitcode for process in processes]
    assert sorted(codes) in ([0, 2], [0, 4])
    said = (tmp_path / f"said-{codes.index(max(codes, key=lambda code: code or 0))}").read_text()
    assert "in use by" in said or "exists and is not empty" in said
    assert cake("resume", "out").code == 0
    assert cake(*words[codes.index(0)][:-1], "alone").code == 0
    kept = snapshot(Path("out"))
    assert {name: kept[name] for name in kept if name.endswith(".safetensors")} == {
        name: digest for name, digest in snapshot(Path("alone")).items() if name.endswith(".safetensors")
    }


def test_a_clock_that_jumps(cake: Cake, teacher: Path, monkeypatch: pytest.MonkeyPatch):
    assert cake("distill", teacher, *TINY, "-o", "steady").code == 0
    draw, real = random.Random(0), runs.datetime

    class Jumping(real):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: object = None) -> object:
            return real.fromtimestamp(draw.uniform(0, 4e9), tz)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "datetime", Jumping)
        patch.setattr(locks, "datetime", Jumping)
        patch.setattr(time, "time", lambda: draw.uniform(0, 4e9))
        patch.setattr(time, "time_ns", lambda: draw.randrange(4 * 10**18))
        assert cake("distill", teacher, *TINY, "-o", "jumping").code == 0
        assert cake("resume", "jumping").code == 0
        assert cake("report", "jumping").code == 0
    assert weights(Path("jumping")) == weights(Path("steady"))
    assert record(Path("jumping"))["seconds"]["training"] < 60


NAMES = ["with space [brackets]", "-100% *?;&$(x)`y`'\"", "🎂 é 漢字", "l" * 200]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_paths(cake: Cake, teacher: Path, name: str):
    folder = Path(name)
    folder.mkdir()
    moved = teacher.rename(folder.absolute() / "t.onnx")
    run = f"./{name}/{name}"
    made = cake("distill", moved, *TINY, "-o", run, "-q")
    assert (made.code, made.out) == (0, f"{Path(run)}/student.safetensors\n"), made.err
    assert cake("inspect", run).code == 0
    assert cake("inspect", f"{run}/bank").code == 0
    assert cake("resume", run).code == 0
    assert cake("export", run, "--to", "safetensors", "-o", f"./{name}/{name[:180]}.safetensors").code == 0
    assert cake("export", run, "--to", "safetensors", "-o", f"./{name}/{name[:180]}.safetensors", "--force").code == 0
    assert cake("distill", moved, *TINY, "-o", run, "--force").code == 0
    assert {path.name for path in folder.iterdir()} == {
        "t.onnx", name, f"{name}.old-1", f"{name[:180]}.safetensors", f"{name[:180]}.safetensors.old-1",
    }  # fmt: skip


def test_a_teacher_with_a_long_name_gets_a_run_of_its_own(cake: Cake, teacher: Path):
    long = teacher.rename(teacher.with_name(f"{'t' * 240}.onnx"))
    assert cake("distill", long, *TINY, "-q").code == 0
    assert cake("distill", long, *TINY, "-q").code == 0
    assert sorted(path.name[-3:] for path in Path("runs").iterdir()) == ["001", "002"]


def test_a_name_that_no_file_system_takes(cake: Cake, teacher: Path):
    said = refusal(cake("distill", teacher, *TINY, "-o", "n" * 300), 2)
    assert "File name too long" in said


def test_the_longest_names_are_written(cake: Cake, teacher: Path):
    assert cake("distill", teacher, *TINY, "-o", "run").code == 0
    for name in ("🎂" * 60 + ".pt", "n" * 252 + ".pt"):
        assert cake("export", "run", "--to", "torchscript", "-o", name).code == 0
        assert Path(name).is_file()


def test_a_symlinked_output_is_followed_and_moved_aside_alone(cake: Cake, teacher: Path, tmp_path: Path):
    target = tmp_path / "elsewhere"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    assert cake("distill", teacher, *TINY, "-o", "link").code == 0
    first = weights(target)
    assert cake("resume", "link").code == 0
    assert cake("distill", teacher, *TINY, "--seed", "1", "-o", "link", "--force").code == 0
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link.old-1").readlink() == target
    assert weights(target) == first != weights(tmp_path / "link")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert "is not a folder" in refusal(cake("distill", teacher, *TINY, "-o", "dangling"), 2)
