"""Folders that one process works in: a lock that the system releases when the process ends, however it ends.

The lock is on a small file that says who holds it. Where a file system knows no locks, nothing is held back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cake_cli.errors import CakeError, DataError, EnvironmentFault

LOCK = ".lock"
PATIENCE_SECONDS = 0.5
"""How long a lock is asked for again: who only looks whether it is free holds it for a moment."""
_TAKEN = {errno.EWOULDBLOCK, errno.EACCES}
_UNKNOWN = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


@contextmanager
def held(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Holds the lock of a folder, whose file is removed at the end.

    Args:
        folder: there already.
        name: of the file.

    Raises:
        DataError: if another process holds it, with who that is.
        EnvironmentFault: if the folder is removed or moved meanwhile.
        OSError: if the file cannot be written.
    """
    path = folder / name
    descriptor = _take(path)
    try:
        about = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with contextlib.suppress(OSError):  # a full disk: it is held all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(about).encode(), 0)
        with staying(folder):
            yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # before it is released, so that nobody waits for a file that is gone
        os.close(descriptor)


@contextmanager
def staying(folder: Path) -> Iterator[None]:
    """Says so where work in a folder fails because the folder is gone.

    Raises:
        EnvironmentFault: instead of what failed, if the folder is not there any more.
    """
    try:
        yield
    except (OSError, CakeError) as fault:
        if folder.is_dir():
            raise
        raise EnvironmentFault(
            f"{folder} was removed or moved while cake worked in it", "put it back and `cake resume` it, or start again"
        ) from fault


def require_free(folder: Path) -> None:
    """Checks that no other process holds the lock of a folder.

    Raises:
        DataError: if one does, with who that is.
    """
    path = folder / LOCK
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, (os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY) | os.O_NOFOLLOW)
        try:
            if not _lock(descriptor):
                raise _in_use(path)
        finally:
            os.close(descriptor)


def is_left_over(path: Path) -> bool:
    """Whether a lock's file is there and its holder is not: the process died without a word."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return _lock(descriptor) and _holder(path).get("host") == socket.gethostname()
    finally:
        os.close(descriptor)


@contextmanager
def alone_on(path: Path) -> Iterator[None]:
    """Marks a file as one that this process is writing, for `is_free`."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def is_free(path: Path) -> bool:
    """Whether nobody is writing a file, as `alone_on` marks it; a folder is never said to be free."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return _lock(descriptor)
    finally:
        os.close(descriptor)


def _take(path: Path) -> int:
    """An open and locked descriptor of the file that lies at `path`."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        if not _lock(descriptor):
            os.close(descriptor)
            if time.monotonic() > until:
                raise _in_use(path)
            time.sleep(PATIENCE_SECONDS / 20)
            continue
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # its holder removed it between our opening and our locking: once more


def _lock(descriptor: int) -> bool:
    """Locks a file unless another process has; where locks are unknown, always."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        if fault.errno in _TAKEN:
            return False
        if fault.errno not in _UNKNOWN:
            raise
    return True


def _in_use(path: Path) -> DataError:
    holder = _holder(path)
    who = "another process"
    if holder:
        who = f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}"
    return DataError(f"{path.parent} is in use by {who}", "wait for it to end, or choose another --out")


def _holder(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}
