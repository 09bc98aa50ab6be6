"""Disks that are full or read-only, and folders that go."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.conftest import SYNTHESIS, TINY, snapshot, weights
from tests.conftest import save_mlp
from tests.faults import children
from tests.faults.kills import Harness, drawn
from tests.faults.scenarios import last_error
from tests.faults.strikes import Gone
from tests.faults.test_kills import lost, named

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc"),
    pytest.mark.filterwarnings("ignore:resource_tracker"),
]


def mount(folder: Path, *options: str) -> None:
    """Mounts something at a folder; skips where that is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting needs root and its rights here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """32 MiB of its own."""
    if not shutil.which("mount"):
        pytest.skip("there is no mount here")
    disk = tmp_path / "disk"
    mount(disk, "-t", "tmpfs", "-o", "size=32m", "tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def run(folder: Path, *words: object, prepare: object = None) -> children.Ended:
    """A command line in a process of its own."""
    return children.run(folder, words, folder.parent / f"{folder.name}-said", prepare)  # type: ignore[arg-type]


def refused(ended: children.Ended, code: int) -> str:
    """The sentence of a command that was refused as it should be."""
    assert ended.code == code, ended.said
    assert "Traceback" not in ended.said
    assert "try:   " in ended.said
    return last_error(ended.said)


@pytest.mark.slow
def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path, small_disk: Path):
    harness = Harness(tmp_path / "kept", disk=small_disk)
    kills = list(drawn(harness, 6, named("distill --force"), ["full disk"]))
    assert lost(kills) == []
    assert {kill.code for kill in kills} - {0} == {5}


@pytest.mark.slow
def test_a_folder_that_goes_and_comes_back_loses_nothing(tmp_path: Path):
    kills = list(drawn(Harness(tmp_path / "kept"), 4, named("synthesize"), ["folder gone"]))
    assert lost(kills) == []
    assert {kill.code for kill in kills} - {0} == {5}


@dataclass(frozen=True)
class _GoneAt:
    """The folder goes before the second shard is stored."""

    folder: str

    def __call__(self) -> None:
        gone = Gone(self.folder)
        from cake_cli.synthesis.bank import SampleBank

        add = SampleBank.add

        def struck(bank: SampleBank, *arguments: object, **keywords: object) -> object:
            if bank.finished_waves:
                gone()
            return add(bank, *arguments, **keywords)  # type: ignore[arg-type]

        SampleBank.add = struck  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize("command", ["synthesize", "distill"])
def test_who_works_in_a_folder_that_goes_says_so(tmp_path: Path, command: str):
    teacher, out = save_mlp(tmp_path / "teacher.onnx"), tmp_path / "out"
    words = [command, teacher, *(SYNTHESIS if command == "synthesize" else TINY), "-o", out]
    ended = run(tmp_path, *words, prepare=_GoneAt(str(out)))
    assert refused(ended, 5) == f"error: {out} was removed or moved while cake worked in it"
    assert not out.exists()
    Path(f"{out}.gone").rename(out)
    assert run(tmp_path, "resume", out).code == 0


def test_a_read_only_disk(tmp_path: Path):
    place = tmp_path / "place"
    place.mkdir()
    teacher = save_mlp(tmp_path / "teacher.onnx")
    assert run(place, "distill", teacher, *TINY, "-o", "run", "-q").code == 0
    kept = snapshot(place)
    mount(place, "--bind", str(place))
    try:
        mount(place, "-o", "remount,bind,ro")
        said = refused(run(tmp_path, "distill", teacher, *TINY, "-o", place / "new"), 2)
        assert said == f"error: {place / 'new'} cannot be created: {place} is not writable"
        assert "Read-only file system" in refused(run(tmp_path, "resume", place / "run"), 5)
        assert "not writable" in refused(run(tmp_path, "export", place / "run", "--to", "torchscript"), 2)
        assert "Read-only file system" in refused(run(tmp_path, "report", place / "run"), 5)
        assert run(tmp_path, "inspect", place / "run").code == 0
        assert run(tmp_path, "train", place / "run", "--student", "linear", *TINY[-1:], "-o", "elsewhere").code == 0
        assert snapshot(place) == kept
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@dataclass(frozen=True)
class _Limit:
    """`ulimit -f`, in bytes: from the beginning, or once the first shard is to be stored."""

    size: int
    at_once: bool

    def __call__(self) -> None:
        if self.at_once:
            return self.limit()
        from cake_cli.synthesis.bank import SampleBank

        add = SampleBank.add

        def limited(bank: SampleBank, *arguments: object, **keywords: object) -> object:
            self.limit()
            return add(bank, *arguments, **keywords)  # type: ignore[arg-type]

        SampleBank.add = limited  # type: ignore[assignment, method-assign]
        return None

    def limit(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("at_once", [True, False])
def test_files_that_may_not_grow(tmp_path: Path, at_once: bool):
    save_mlp(tmp_path / "teacher.onnx")
    words = ["distill", tmp_path / "teacher.onnx", *TINY, "-q", "-o"]
    said = refused(run(tmp_path, *words, "out", prepare=_Limit(1500, at_once)), 5)
    assert "would be larger than this system allows (ulimit -f)" in said
    out = tmp_path / "out"
    assert (out / "config.toml").exists() == (not at_once)
    again = [*words, "out"] if at_once else ["resume", "out"]
    assert run(tmp_path, *again).code == 0
    assert run(tmp_path, *words, "whole").code == 0
    assert weights(out) == weights(tmp_path / "whole")
    assert sorted(snapshot(out)) == sorted(snapshot(tmp_path / "whole"))
