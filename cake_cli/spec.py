"""The input of a classifier, in words that need no tensor library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cake_cli.errors import UsageError
from cake_cli.text import counted

MOST_VALUES = 2**24
"""Numbers in one input row, 64 MiB of float32: a file that states more is damaged or means harm."""

Expects = Literal["normalised", "raw"]


SMALLEST_STD = 1e-30
"""A standard deviation by which float32 values can still be divided."""


@dataclass(frozen=True)
class InputSpec:
    """What one input row is, and how raw data become it.

    Everything inside `cake` (synthesis, banks, students) works in the *normalised space*
    ``z = (raw - mean) / std``, where ``raw`` is data scaled to `range`. A model file takes either z
    itself (`expects` is ``"normalised"``: the normalisation happens outside the file, as with most
    PyTorch models) or raw values (``"raw"``: it happens inside the file, or not at all).
    """

    shape: tuple[int, ...]
    """(C, H, W) for images, (D,) for vectors."""
    mean: tuple[float, ...] = (0.0,)
    """Subtracted from raw values, one a channel or one for all."""
    std: tuple[float, ...] = (1.0,)
    """Divided by, likewise."""
    range: tuple[float, float] | None = (0.0, 1.0)
    """The least and the greatest raw value; None where values have no bounds (vectors)."""
    expects: Expects = "normalised"
    """Whether the model file takes normalised or raw values."""
    source: str = "assumed"
    """Where mean, std and range were read: shown to the user, who may know better."""

    def __post_init__(self) -> None:
        if len(self.shape) not in (1, 3) or any(size < 1 for size in self.shape):
            raise UsageError(
                f"an input shape is C,H,W or D with positive sizes, not {format_shape(self.shape)}",
                "--input-shape 3,32,32",
            )
        require_row(self.shape)
        for flag, values in (("--mean", self.mean), ("--std", self.std)):
            if len(values) not in (1, self.channels):
                raise UsageError(
                    f"{flag} has {counted(len(values), 'values')}, the input has {counted(self.channels, 'channels')}",
                    "give one value" if self.channels == 1 else f"give one value, or {self.channels}",
                )
            if not all(math.isfinite(value) for value in values):
                raise UsageError(f"{flag} must be finite", f"{flag} 0.5")
        if any(value < SMALLEST_STD for value in self.std):
            raise UsageError(f"--std must be positive, {SMALLEST_STD:g} at least", "--std 0.25")
        if self.range is not None and not -math.inf < self.range[0] < self.range[1] < math.inf:
            raise UsageError("--input-range goes from low to high", "--input-range 0,1")

    @property
    def is_image(self) -> bool:
        """Whether a row is an image, (C, H, W)."""
        return len(self.shape) == 3

    @property
    def channels(self) -> int:
        """C for images, D for vectors."""
        return self.shape[0]

    @property
    def values(self) -> int:
        """How many numbers one row holds."""
        return math.prod(self.shape)

    @property
    def range_is_known(self) -> bool:
        """Whether `range` was stated, and is not assumed along with everything else."""
        return self.range is not None and not self.source.startswith("assumed")

    @property
    def is_identity(self) -> bool:
        """Whether raw and normalised values are the same."""
        return all(m == 0 for m in self.mean) and all(s == 1 for s in self.std)

    def to_json(self) -> dict[str, Any]:
        """As plain values, for manifests and metadata."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> InputSpec:
        """The inverse of `to_json`.

        Raises:
            UsageError: if the fields do not describe an input.
        """
        try:
            bounds = fields["range"]
            return cls(
                shape=tuple(int(size) for size in fields["shape"]),
                mean=tuple(float(value) for value in fields["mean"]),
                std=tuple(float(value) for value in fields["std"]),
                range=None if bounds is None else (float(bounds[0]), float(bounds[1])),
                expects="raw" if fields["expects"] == "raw" else "normalised",
                source=str(fields["source"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as fault:
            raise UsageError(f"not an input specification: {fault}") from fault


def require_row(shape: Sequence[int]) -> None:
    """Refuses rows of more than `MOST_VALUES` numbers, before any is made.

    Raises:
        UsageError: with the shape.
    """
    if math.prod(shape) > MOST_VALUES:
        raise UsageError(
            f"an input of {format_shape(shape)} has {math.prod(shape):,} values, and a row at most {MOST_VALUES:,}",
            "check the shape that the file states, or --input-shape",
        )


def format_shape(shape: Sequence[int | str]) -> str:
    """``3x32x32``."""
    return "x".join(str(size) for size in shape) or "scalar"
