"""Moments at which a process that runs `cake` can be struck: each step of putting something on the disk is one.

The process that is to be struck calls `watch` before it runs the command line. From then on whatever writes a file
passes here: half of its bytes written, all of them written and not yet renamed, renamed, a line appended, a folder
made, something removed. The moments of an undisturbed run are counted first; any of them can then be chosen.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TOKEN = re.compile(r"^\.partial-[0-9a-z]+-")


class Watch:
    """Counts moments, and strikes at one of them.

    Args:
        note: file that gets the name of each moment, a line each.
        strike_at: which moment to strike at, from 1; 0 for none.
        strike: what happens then.
    """

    def __init__(self, note: Path, strike_at: int, strike: Callable[[], None]) -> None:
        self._note = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._strike_at = strike_at
        self._strike = strike
        self._count = 0
        self._guard = threading.RLock()

    def passes(self, name: str) -> bool:
        """A moment is there; returns whether it is the one, after the strike."""
        with self._guard:
            self._count += 1
            os.write(self._note, f"{name}\n".encode())
            chosen = self._count == self._strike_at
        if chosen:
            self._strike()
        return chosen

    def is_next(self) -> bool:
        """Whether the next moment is the one to strike at."""
        return self._count + 1 == self._strike_at


def watch(note: Path, strike_at: int, strike: Callable[[], None]) -> None:
    """Patches this process; the arguments are those of `Watch`."""
    found = Watch(note, strike_at, strike)
    fsync, sync = os.fsync, os.sync

    def seen_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            found.passes(f"renamed into {_shown(path)}")
        elif _TOKEN.match(path.name):
            if found.is_next():
                with _cut_in_half(path):
                    found.passes(f"half of {_shown(path)}")
            else:
                found.passes(f"half of {_shown(path)}")
            found.passes(f"whole, not renamed {_shown(path)}")
        else:
            found.passes(f"appended to {_shown(path)}")
        fsync(descriptor)

    def seen_sync() -> None:
        found.passes("a folder whole, not renamed")
        sync()

    os.fsync, os.sync = seen_fsync, seen_sync
    make, move = Path.mkdir, Path.rename

    def seen_mkdir(path: Path, *arguments: Any, **keywords: Any) -> None:
        new = not path.exists()
        make(path, *arguments, **keywords)
        if new:
            found.passes(f"made {_shown(path)}")

    def seen_rename(path: Path, target: Path) -> Path:
        moved = move(path, target)
        found.passes(f"moved {_shown(path)}")
        return moved

    Path.mkdir, Path.rename = seen_mkdir, seen_rename  # type: ignore[method-assign]
    _before(Path, "unlink", found, "removing")
    _before(shutil, "rmtree", found, "removing all of")


@contextlib.contextmanager
def _cut_in_half(path: Path) -> Any:
    """A file whose second half is not there meanwhile."""
    content = path.read_bytes()
    os.truncate(path, len(content) // 2)
    try:
        yield
    finally:
        path.write_bytes(content)  # fails, as the writer would have, where the disk was filled meanwhile


def _shown(path: Path) -> str:
    return _TOKEN.sub("", path.name)


def _before(owner: Any, name: str, found: Watch, verb: str) -> None:
    real: Callable[..., Any] = getattr(owner, name)

    def seen(path: Any, *arguments: Any, **keywords: Any) -> Any:
        if Path(path).exists():
            found.passes(f"{verb} {_shown(Path(path))}")
        return real(path, *arguments, **keywords)

    setattr(owner, name, seen)
