"""What can go wrong, as exceptions that carry what happened, why, and what to try.

The tree, with the exit code of each branch (`cli/failures.py` is the one place that prints them)::

    CakeError
    ├── UsageError           2   flags, configuration, an output that exists
    ├── ModelFileError       3   a model file that cannot be a teacher or a student
    │   └── NoGradient       3   it gives outputs and no gradient: it can be asked, and not followed
    ├── DataError            4   a held-out set or a sample bank
    ├── EnvironmentFault     5   device, memory, disk, a missing extra
    ├── RunError             6   not finite, degenerate samples
    └── AgreementMissed      7   the gate of `--min-agreement`

Anything else that escapes is a bug (exit code 1), and Ctrl-C is 130.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class CakeError(Exception):
    """A failure that the user can act on.

    Args:
        what: one sentence without a final period: what happened, and why where that is known.
        fix: what to type or change; may hold several lines.
    """

    exit_code = 1

    def __init__(self, what: str, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


class UsageError(CakeError):
    """The command line or the configuration asks for something that cannot be."""

    exit_code = 2


class ModelFileError(CakeError):
    """A model file is missing, damaged, of an unknown kind, or not a classifier."""

    exit_code = 3


class NoGradient(ModelFileError):
    """A model that gives outputs and has no gradient in its input: a black box."""


class DataError(CakeError):
    """A held-out set or a sample bank is missing, damaged, or does not fit the teacher."""

    exit_code = 4


class EnvironmentFault(CakeError):
    """The machine lacks something: a device, memory, disk, an optional package."""

    exit_code = 5


class RunError(CakeError):
    """The computation itself failed: values that are not finite, degenerate samples."""

    exit_code = 6


class AgreementMissed(CakeError):
    """The student agrees less with its teacher than `--min-agreement` asks."""

    exit_code = 7


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion such as ``did you mean 'resnet18'?``, or an empty string."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""Parts of what CUDA, MPS and the allocators of the CPU say, in lower case."""


def is_out_of_memory(fault: BaseException) -> bool:
    """Whether a device or the machine had no memory left: torch has an exception of its own for CUDA alone."""
    if isinstance(fault, MemoryError) or type(fault).__name__ == "OutOfMemoryError":  # torch's takes seconds to import
        return True
    return isinstance(fault, RuntimeError) and any(words in str(fault).lower() for words in _OUT_OF_MEMORY)
