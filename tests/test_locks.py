"""A folder is one process's at a time, and a lock ends with its process."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cake_cli.errors import DataError
from cake_cli.locks import LOCK, held, is_left_over, require_free
from cake_cli.storage import claim_output

DIES = """
import os, sys
from pathlib import Path
from cake_cli.locks import held
with held(Path(sys.argv[1])):
    os._exit(9)
"""


def test_a_held_folder_is_refused_with_its_holder(tmp_path: Path) -> None:
    with held(tmp_path):
        with pytest.raises(DataError, match=rf"in use by process {os.getpid()} on .*, since 20"), held(tmp_path):
            raise AssertionError("two held it")
        with pytest.raises(DataError, match="in use"):
            require_free(tmp_path)
        assert not is_left_over(tmp_path / LOCK)
    assert list(tmp_path.iterdir()) == []
    require_free(tmp_path)
    with held(tmp_path):
        pass


def test_locks_of_other_names_are_others(tmp_path: Path) -> None:
    with held(tmp_path), held(tmp_path, ".lock-1"):
        assert json.loads((tmp_path / ".lock-1").read_text())["pid"] == os.getpid()


def test_it_ends_with_its_process_and_tells_of_that(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False)
    assert killed.returncode == 9
    assert is_left_over(tmp_path / LOCK)
    with held(tmp_path):
        pass
    assert not is_left_over(tmp_path / LOCK)


def test_force_does_not_move_a_folder_that_is_worked_in(tmp_path: Path) -> None:
    folder = tmp_path / "bank"
    folder.mkdir()
    with held(folder):
        with pytest.raises(DataError, match="in use"):
            claim_output(folder, force=True)
        assert folder.is_dir()


def test_without_locks_nothing_is_held_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with held(tmp_path), held(tmp_path, ".lock-1"):
        pass


def test_a_damaged_lock_is_still_a_lock(tmp_path: Path) -> None:
    with held(tmp_path):
        (tmp_path / LOCK).write_text("{")
        with pytest.raises(DataError, match="in use by another process"):
            require_free(tmp_path)
