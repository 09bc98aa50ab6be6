"""One command line in a forked child: bounded in memory, time and what it may write, with all that it said.

The parent imports everything once and computes nothing, so that a child starts in milliseconds and no thread is
lost in the fork. `Bounds` are the stated bounds: an input that needs more is a fault.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn

MODULES = (
    *("cake_cli.cli.app", "cake_cli.inspection", "cake_cli.pipeline", "cake_cli.assessment", "cake_cli.synthesizing"),
    *("cake_cli.training", "cake_cli.planning", "cake_cli.estimating", "cake_cli.report.page", "cake_cli.cli.running"),
    *("cake_cli.models.onnx", "cake_cli.models.torchscript", "cake_cli.models.weights", "cake_cli.models.exported"),
    *("cake_cli.models.exporting", "cake_cli.data", "onnxruntime", "onnx.reference", "onnx.version_converter"),
    *("onnx.inliner", "torchvision", "torchmetrics", "matplotlib.backends.backend_agg", "jinja2", "torch.export"),
    *("torch._dynamo", "torch._functorch.vmap", "PIL.PngImagePlugin", "PIL.JpegImagePlugin", "PIL.TiffImagePlugin"),
)
"""What commands import inside functions; a child that finds it imported saves seconds."""


@dataclass(frozen=True)
class Bounds:
    """What one command may take."""

    memory: int = 2 * 2**30
    """Bytes of address space beyond what the libraries take when they are loaded."""
    seconds: float = 30.0
    file: int = 256 * 2**20
    """Bytes of the largest file."""


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int | None
    """The exit code; None if a signal ended it."""
    signal: int | None
    """What ended it: SIGKILL for one that ran out of time."""
    seconds: float
    peak: int
    """Bytes resident at most."""
    out: bytes
    err: bytes
    network: str = ""
    """What it asked the network for, which it did not get."""

    @property
    def hung(self) -> bool:
        """Whether it was killed for time."""
        return self.signal == signal.SIGKILL


def warm_up() -> None:
    """Imports what commands import; computes nothing, so no thread is started."""
    os.environ |= {"OMP_NUM_THREADS": "1", "CI": "1", "NO_COLOR": "1", "MPLBACKEND": "agg", "TZ": "UTC"}
    for name in MODULES:
        import_module(name)
    for name in ("pyarrow.parquet", "timm", "transformers"):
        try:
            import_module(name)
        except ImportError:
            continue


def fork(work: Callable[[], int | None], folder: Path, bounds: Bounds) -> Ended:
    """Runs `work` in a child whose current and temporary folders lie in `folder`.

    Args:
        work: returns an exit code.
        folder: exists; gets ``stdout``, ``stderr``, ``tmp`` and ``cwd``.
        bounds: of the child.
    """
    for name in ("tmp", "cwd"):
        (folder / name).mkdir(exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_child(work, folder, bounds)
    status, usage = _wait(child, bounds.seconds)
    return Ended(
        code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        seconds=time.monotonic() - started,
        peak=usage.ru_maxrss * 1024,
        out=(folder / "stdout").read_bytes(),
        err=(folder / "stderr").read_bytes(),
        network=(folder / "network").read_text(),
    )


def run_cake(arguments: Sequence[str], folder: Path, bounds: Bounds) -> Ended:
    """``cake ARGUMENTS`` in a child."""

    def work() -> int:
        from cake_cli.cli.app import run

        return run(list(arguments))

    return fork(work, folder, bounds)


def _be_the_child(work: Callable[[], int | None], folder: Path, bounds: Bounds) -> NoReturn:
    """Never returns: whatever happens the child must not go on as a second parent."""
    code = 99
    try:
        os.setsid()
        out, err = (os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("stdout", "stderr"))
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        faulthandler.enable(2)
        tempfile.tempdir = str(folder / "tmp")
        os.environ |= {
            "TMPDIR": str(folder / "tmp"),
            "XDG_CACHE_HOME": str(folder / "tmp"),
            "HOME": str(folder / "tmp"),
        }
        os.chdir(folder / "cwd")
        _cut_off(folder / "network")
        _limit(bounds)
        code = work() or 0
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _cut_off(told: Path) -> None:
    """Refuses every way to the network that Python has, and tells of it; sockets of this machine's own stay."""
    told.write_text("")

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        remote = event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
        if remote or (event == "socket.connect" and not isinstance(arguments[1], (str, bytes))):
            with told.open("a") as stream:
                stream.write(f"{event} {arguments[1:]}\n")
            raise OSError("there is no network here")

    sys.addaudithook(hook)


def _limit(bounds: Bounds) -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + bounds.memory, mapped + bounds.memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (bounds.file, bounds.file))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _wait(child: int, seconds: float) -> tuple[int, resource.struct_rusage]:
    """The status of a child and what it used; one that takes longer is killed, with its own children."""
    descriptor = os.pidfd_open(child)
    try:
        if not select.select([descriptor], [], [], seconds)[0]:
            os.killpg(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
    finally:
        os.close(descriptor)
    return status, usage
