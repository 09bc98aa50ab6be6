"""Whole files of every kind, and commands that meet damaged ones in bounded processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hostile.forking import Ended
from tests.hostile.fuzz import SECRET, judge
from tests.hostile.serving import ROOT, Server

Meet = Callable[..., str]
PATIENCE = 120.0
"""Seconds for a whole command on a machine that has other work; what hangs takes longer."""


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made in a process of their own, whose warnings are its own."""
    folder = tmp_path_factory.mktemp("hostile") / "seeds"
    command = [sys.executable, "-m", "tests.hostile.seeds", str(folder)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert made.returncode == 0, made.stderr.decode()
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that no command is given, which nothing may read or change."""
    file = tmp_path / "outside" / "secret.txt"
    file.parent.mkdir()
    file.write_text(SECRET)
    return file


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Callable[..., Ended]:
    """Runs a command line in a bounded child; whatever it met, the end must be one that `judge` allows."""
    folder = tmp_path / "child"
    folder.mkdir()

    def bounded(*arguments: object, seconds: float = PATIENCE) -> Ended:
        there = sorted(folder.glob("cwd/*"))
        ended = server.run([str(argument) for argument in arguments], folder, seconds)
        logs = "".join(log.read_text() for log in (folder / "tmp").glob("cake-*.log"))
        assert judge(ended, None, logs) is None
        assert sorted(folder.glob("cwd/*")) == there
        return ended

    return bounded


@pytest.fixture
def refused(run: Callable[..., Ended]) -> Meet:
    """Runs a command that must be refused, with an exit code, and returns what it said."""

    def meet(code: int, *arguments: object) -> str:
        ended = run(*arguments)
        said = ended.err.decode()
        assert ended.code == code, said
        assert "try:   " in said
        return said

    return meet


def edit_json(file: Path, **changes: object) -> None:
    """Replaces fields of a JSON object."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
