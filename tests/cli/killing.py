"""Command lines in processes of their own: killed for good in the middle of writing something, or as ranks of a job."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
"""Processes that have imported everything already, so that each test need not wait for it."""
FORKS.set_forkserver_preload(["tests.cli.preloaded"])


def kill_at(target: str, time: int, only_rank: str | None = None) -> None:
    """From now on this process is killed when it syncs a file whose name contains `target` for the n-th time.

    The name is that of the temporary file: it was written, and not yet renamed. ``images`` is a folder.
    """
    if only_rank is not None and os.environ.get("RANK") != only_rank:
        return
    seen = 0

    def count(name: str) -> None:
        nonlocal seen
        seen += target in name
        if seen == time and target in name:
            os.kill(os.getpid(), signal.SIGKILL)

    fsync, sync = os.fsync, os.sync

    def struck(descriptor: int) -> None:
        count(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def struck_by_all() -> None:
        count("images")
        sync()

    os.fsync, os.sync = struck, struck_by_all


def run_and_die(folder: str, arguments: list[str], target: str, time: int) -> None:
    """Runs a command line in a folder, quietly, until it is killed."""
    from cake_cli.cli.app import run

    os.chdir(folder)
    hear(os.devnull)
    kill_at(target, time)
    os._exit(run(arguments))


def hear(file: str) -> None:
    """Sends what this process says to a file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def run_as_rank(folder: str, arguments: list[str], environment: dict[str, str]) -> None:
    """Runs a command line as torchrun would start one of its processes; what it says goes to ``said-RANK``."""
    from cake_cli.cli.app import run

    os.chdir(folder)
    os.environ.update(environment)
    hear(f"said-{environment['RANK']}")
    os._exit(run(arguments))


def on_ranks(world: int, folder: Path, arguments: list[object]) -> list[int | None]:
    """Runs a command line on several ranks, and returns how each ended."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = [str(word) for word in arguments]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    processes = [
        FORKS.Process(
            target=run_as_rank, args=(str(folder), words, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        )
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    for process in processes:
        process.kill()
    return [process.exitcode for process in processes]


def killed(folder: Path, arguments: list[object], target: str, time: int) -> int:
    """Runs a command line in a process of its own, and returns how that ended: -9 if it was killed as it should be."""
    process = FORKS.Process(target=run_and_die, args=(str(folder), [str(word) for word in arguments], target, time))
    process.start()
    process.join(120)
    if process.exitcode is None:
        process.kill()
    code = process.exitcode
    return 0 if code is None else code
