"""What can happen to a process at a moment: a signal, a full disk, a folder that is taken away.

Each is called in the process itself, and undone from outside before the run is gone on with.
"""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

INTERRUPTED = 130
REFUSED = 5
"""Exit code of what the environment refuses."""


class Strike(Protocol):
    """Something that happens."""

    @property
    def codes(self) -> set[int]:
        """How the process may end, beside successfully."""

    def __call__(self) -> None:
        """Happens, in the process."""

    def undo(self) -> None:
        """Is mended, afterwards."""


@dataclass(frozen=True)
class Signal:
    """A signal to the process."""

    number: int

    @property
    def codes(self) -> set[int]:
        return {-self.number} if self.number == signal.SIGKILL else {-self.number, INTERRUPTED}

    def __call__(self) -> None:
        os.kill(os.getpid(), self.number)

    def undo(self) -> None:
        pass


@dataclass(frozen=True)
class FullDisk:
    """The disk of a folder is filled to the last byte: a small one, of its own."""

    folder: str

    @property
    def codes(self) -> set[int]:
        return {REFUSED}

    def __call__(self) -> None:
        if shutil.disk_usage(self.folder).total > 64 * 2**20:
            raise ValueError(f"{self.folder} is on no disk that may be filled")
        descriptor = os.open(Path(self.folder) / "ballast", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for size in (2**20, 2**12, 1):
            try:
                while os.write(descriptor, b"\0" * size):
                    pass
            except OSError:
                continue
        os.close(descriptor)

    def undo(self) -> None:
        (Path(self.folder) / "ballast").unlink(missing_ok=True)


@dataclass(frozen=True)
class Gone:
    """A folder is moved away."""

    folder: str

    @property
    def codes(self) -> set[int]:
        return {REFUSED}

    def __call__(self) -> None:
        if Path(self.folder).is_dir():
            os.rename(self.folder, f"{self.folder}.gone")  # noqa: PTH104 - Path.rename is a moment

    def undo(self) -> None:
        away = Path(f"{self.folder}.gone")
        if away.is_dir():
            shutil.rmtree(self.folder, ignore_errors=True)
            away.rename(self.folder)
