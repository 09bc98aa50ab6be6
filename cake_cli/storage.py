"""Files that are either whole or not there: written to a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cake_cli.errors import CakeError, EnvironmentFault, UsageError
from cake_cli.locks import LOCK, alone_on, held, is_free, require_free
from cake_cli.text import is_text

_LONGEST_NAME = 255
_SYSTEM_CODE = re.compile(r"\b(?:code: |os error )(\d+)\b")
"""How safetensors tells what the system said."""
TEMPORARY = ".partial-"
"""Prefix of names under which files are written; whatever bears it is left over from a killed run."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on success it is synced and renamed to `path`, else removed.

    Raises:
        EnvironmentFault: if the disk is full or refuses.
    """
    temporary = _temporary(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        with alone_on(temporary):
            yield temporary
            temporary.chmod(mode)  # some writers make private files, whatever the umask says
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        _sync_folder(path.parent)
    except Exception as fault:
        refused = _refused(fault)
        if refused is None:
            raise
        raise write_fault(path, refused) from fault
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, to be filled; on success it is renamed to `path`, else removed.

    Raises:
        EnvironmentFault: if the disk is full or refuses.
    """
    temporary = _temporary(path)
    try:
        temporary.mkdir()
        yield temporary
        os.sync()  # one wait for all files: there may be a great many small ones
        temporary.rename(path)
        _sync_folder(path.parent)
    except OSError as fault:
        raise write_fault(path, fault) from fault
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    """A free name beside `path`, of at most 255 bytes, that ends as `path` does: some writers go by that."""
    prefix = f"{TEMPORARY}{secrets.token_hex(4)}-"
    tail = os.fsencode(path.name)[-(_LONGEST_NAME - len(prefix)) :]
    return path.with_name(prefix + tail.decode(errors="ignore"))


def _refused(fault: Exception) -> OSError | None:
    """What the system said to a writer, where that is why it failed: some put it into words of their own."""
    if isinstance(fault, (OSError, CakeError)):
        return fault if isinstance(fault, OSError) else None
    if isinstance(fault, RuntimeError) and isinstance(fault.__context__, OSError):
        return fault.__context__  # torch, which was writing into a file of ours
    found = _SYSTEM_CODE.search(str(fault))
    return None if found is None else OSError(int(found[1]), os.strerror(int(found[1])))


def append_line(path: Path, line: str) -> None:
    """Adds a line to a UTF-8 file and waits until the disk has it; after a fault the file is as it was.

    A process that is killed in the middle leaves an end without a line break, which a reader passes over.

    Raises:
        EnvironmentFault: if the disk is full or refuses.
    """
    size = path.stat().st_size if path.exists() else None
    try:
        with path.open("ab") as stream:
            stream.write(f"{line}\n".encode())
            stream.flush()
            os.fsync(stream.fileno())
        if size is None:
            _sync_folder(path.parent)
    except OSError as fault:
        with contextlib.suppress(OSError):
            os.truncate(path, size or 0)
        raise write_fault(path, fault) from fault


def write_fault(path: Path, fault: OSError) -> EnvironmentFault:
    """What a failed write means to the user."""
    if fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentFault(f"no space left on the disk of {path}", "free some space, then `cake resume` the run")
    if fault.errno == errno.EFBIG:
        return EnvironmentFault(f"{path} would be larger than this system allows (ulimit -f)", "ulimit -f unlimited")
    if fault.errno == errno.ENOENT and not path.parent.is_dir():
        return EnvironmentFault(
            f"the folder {path.parent} is gone: it was moved or removed meanwhile", "choose an --out"
        )
    return EnvironmentFault(f"{path} could not be written: {fault.strerror or fault}", "choose another --out")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole.

    Raises:
        EnvironmentFault: if the disk is full or refuses.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    r"""Writes a UTF-8 file whole; raises as `write_bytes`.

    Names of files may hold bytes that are no UTF-8: they are written as JSON escapes them, ``\udcff``.
    """
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file whole; raises as `write_bytes`."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def clear_abandoned(folder: Path, name: str = "") -> None:
    """Removes what killed writers left in a folder, of the file `name` or of all; who is at work keeps its own."""
    for left in folder.iterdir():
        if left.name.startswith(TEMPORARY) and left.name.endswith(name) and is_free(left):
            left.unlink(missing_ok=True)


def clear_leftovers(folder: Path) -> None:
    """Removes what killed writers left in a folder that this process holds: nobody else writes there."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_output(path: Path, *, force: bool, own: bool = False, reads: Sequence[Path] = ()) -> None:
    """Refuses an output that `claim_output` would refuse, before any work is done; changes nothing.

    Args:
        path: a folder, there or not.
        force: whether what is there will be moved aside.
        own: whether this process holds the folder already.
        reads: files and folders that the run needs, by absolute paths.

    Raises:
        DataError: if another process works in it.
        UsageError: if it exists and is not a folder, or not empty without `force`, or cannot be created; or if what
            would be moved aside with it is needed.
    """
    if not is_text(str(path)):
        raise UsageError(f"{path} is not UTF-8, which what is written there must be read by", "choose another --out")
    try:
        if (path.is_symlink() or path.exists()) and not path.is_dir():
            raise UsageError(f"{path} exists and is not a folder", "choose another --out")
        if path.is_dir() and not own:
            require_free(path)
        if path.is_dir() and not force and _holds_something(path):
            raise UsageError(f"{path} exists and is not empty", "choose another --out, or --force to move it aside")
        nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not nearest.is_dir():
            raise UsageError(f"{path} cannot be created: {nearest} is not a folder", "choose another --out")
        if path.is_dir() and _holds_something(path) and path.name in ("", ".."):
            raise UsageError(f"{path} is not empty, and cannot be moved aside by that name", "choose another --out")
        if force and path.is_dir() and not path.is_symlink() and _holds_something(path):  # of a link the link is moved
            needed = next((file for file in reads if file.is_relative_to(path.absolute())), None)
            needed = needed or next((file for file in reads if file.is_relative_to(path.resolve())), None)
            if needed is not None:
                told = f"{needed} lies in {path}" if needed != path.resolve() else f"{path} is needed"
                raise UsageError(f"{told}, which --force would move aside", "choose another --out")
        if not os.access(nearest, os.W_OK):
            raise UsageError(f"{path} cannot be created: {nearest} is not writable", "choose another --out")
    except OSError as fault:
        raise _cannot_create(path, fault) from fault


def claim_output(path: Path, *, force: bool) -> None:
    """Makes `path` an empty folder; with `force` what was there is moved aside, never deleted.

    Raises:
        UsageError: as `check_output`.
        DataError: if another process works in it.
    """
    check_output(path, force=force)
    try:
        if path.is_dir() and _holds_something(path):
            path.rename(_free_name(path))
        path.mkdir(parents=True, exist_ok=True)
        clear_abandoned(path)
    except OSError as fault:
        raise _cannot_create(path, fault) from fault


def begin_output(path: Path, name: str, content: str, *, force: bool) -> None:
    """Claims a folder and writes its first file; of two processes that do so at once one is refused.

    Raises:
        UsageError, DataError: as `claim_output`.
        EnvironmentFault: if the disk is full or refuses.
    """
    claim_output(path, force=force)
    with held(path):
        check_output(path, force=False, own=True)
        write_text(path / name, content)


def holds_only(folder: Path, name: str) -> bool:
    """Whether a folder has that one file, and else only what a process left that was killed before it began."""
    return (folder / name).is_file() and _kept(folder) == {name}


def _holds_something(folder: Path) -> bool:
    return bool(_kept(folder))


def _kept(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != LOCK and not path.name.startswith(TEMPORARY)}


def check_file(path: Path, *, force: bool, reads: Sequence[Path] = ()) -> None:
    """Refuses a file that cannot or may not be written, before any work is done; changes nothing.

    Args:
        path: a file, there or not.
        force: whether what is there will be moved aside.
        reads: files and folders that the command needs, by absolute paths.

    Raises:
        UsageError: if it exists and not `force`, is a folder, or its folder is missing or not writable; or if it is
            needed.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder, not a file", "the name of a file")
        if (path.is_symlink() or path.exists()) and not force:
            raise UsageError(f"{path} exists", "another name, or --force to move it aside")
        if path.is_file() and not path.is_symlink() and path.resolve() in reads:  # of a link the link is moved
            raise UsageError(f"{path} is needed, which --force would move aside", "another name")
        if not path.parent.is_dir():
            raise UsageError(f"{path} cannot be written: there is no folder {path.parent}", f"mkdir -p {path.parent}")
        if not os.access(path.parent, os.W_OK):
            raise UsageError(f"{path} cannot be written: {path.parent} is not writable", "a file somewhere else")
    except OSError as fault:
        raise _cannot_create(path, fault) from fault


def set_aside(path: Path) -> None:
    """Gives what is at `path` a free name beside it, ``NAME.old-1``; does nothing where there is nothing."""
    if path.is_symlink() or path.exists():
        path.rename(_free_name(path))


def _cannot_create(path: Path, fault: OSError) -> UsageError:
    return UsageError(f"{path} cannot be created: {fault.strerror or fault}", "choose another --out")


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    return candidate


def belongs_to(folder: Path) -> Path:
    """What is gone on with to finish a bank or a run: the run that it is part of, or the folder itself."""
    above = folder.parent
    if folder.name == "bank" and (above / "run.json").is_file():
        return above
    is_of_several = above.name == "students" and (above.parent / "run.json").is_file()
    return above.parent if is_of_several and (folder / "run.json").is_file() else folder
