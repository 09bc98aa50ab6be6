"""At which scale of its inputs a classifier's outputs respond: a hint of the values that it was trained on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.models.classifier import Classifier
from cake_cli.spec import InputSpec

SCALES = (1.0, 100.0, 10.0, 1000.0, 0.1, 0.01)
"""The spreads of the inputs that are tried, those that tell most first."""
FEWEST_SCALES, FEWEST_ROWS, MOST_ROWS = 3, 2, 4
WORK = 26e9
"""Multiply-adds that may be spent, half a second or so: a large network gets fewer scales, with fewer rows of each.
A count rather than a time, so that a file is told the same thing each time."""
SECONDS = 2.0
"""When it ends all the same: a graph of very many nodes takes its time without computing much."""
FEW = 0.02
"""A change of probabilities below this is none."""
FAR = 30.0
"""How many times larger or smaller than one a scale is that is worth a word."""


@dataclass(frozen=True)
class Response:
    """How much the probabilities change between random inputs of one scale, in the normalised space."""

    changes: dict[float, float] = field(default_factory=dict)
    """By the spread of the inputs: the mean total variation between two rows' probabilities, 0 to 1."""

    @property
    def scale(self) -> float | None:
        """The smallest scale tried at which half of the greatest change is reached; None where nothing changes."""
        most = max(self.changes.values(), default=0.0)
        return (
            min((s for s, change in self.changes.items() if change >= most / 2), default=None) if most >= FEW else None
        )

    def sentence(self) -> str:
        """What `inspect` shows."""
        if not self.changes:
            return "not measured: a pass takes too long"
        near = [s for s in sorted(self.changes) if self.scale is None or 0.09 * self.scale < s < 11 * self.scale]
        told = ", ".join(f"{self.changes[scale]:.2f} at {scale:g}" for scale in near)
        if self.scale is None:
            return f"to inputs of no scale that was tried: its probabilities change by {told}"
        return f"to values of about {self.scale:g}: between random inputs its probabilities change by {told}"

    def doubt(self, spec: InputSpec) -> str | None:
        """What to check, where the scale is far from one, that of normalised values.

        Args:
            spec: what the file is taken to take.
        """
        if self.scale is None or len(self.changes) < FEWEST_SCALES or 1 / FAR < self.scale < FAR:
            return None
        what = "values as they are" if spec.is_identity else "normalised values"
        times = f"{self.scale:g} times larger" if self.scale > 1 else f"{1 / self.scale:g} times smaller"
        fix = "--input-range LOW,HIGH if it takes raw values"
        if spec.is_image:
            fix = "if it takes pixels, --input-range 0,1 or 0,255; held-out data tell which (cake evaluate)"
        if spec.range_is_known and spec.range is not None:
            fix = f"is it trained, and does it take values from {spec.range[0]:g} to {spec.range[1]:g}?"
        return f"it responds to {what} {times} than those of N(0, 1): {fix}"


def doubt_of(model: Classifier, multiply_adds: int) -> str | None:
    """What to check of the values that a classifier is only assumed to take; None where they are known, or respond.

    Arguments are those of `measure_response`. A model that costs something to ask is not asked.
    """
    if model.seconds_a_row is not None or not model.spec.source.startswith("assumed"):
        return None
    return measure_response(model, multiply_adds).doubt(model.spec)


def measure_response(model: Classifier, multiply_adds: int) -> Response:
    """Tries a classifier on random inputs of several scales.

    Args:
        model: on the CPU.
        multiply_adds: of one row's forward pass.
    """
    affordable = int(WORK / max(1, multiply_adds))  # rows
    rows = min(MOST_ROWS, max(FEWEST_ROWS, affordable // len(SCALES)))
    scales = SCALES[: max(FEWEST_SCALES, affordable // rows)]
    if rows * len(scales) > 2 * affordable:
        return Response()
    changes: dict[float, float] = {}
    start = time.monotonic()
    for scale in scales:
        if time.monotonic() - start > SECONDS:
            break
        with torch.no_grad():
            probabilities = model(_rows(model.spec.shape, rows) * scale).double().softmax(1)  # (R, K)
        pairs = torch.pdist(probabilities, p=1) / 2  # (R (R - 1) / 2,)
        changes[scale] = float(pairs.nan_to_num(0.0).mean())
    return Response(changes)


def _rows(shape: tuple[int, ...], count: int) -> Tensor:
    """Inputs of scale one, (count, *shape): smooth normal images, to which networks respond more than to noise."""
    generator = torch.Generator().manual_seed(0)
    if len(shape) == 1:
        return torch.randn(count, *shape, generator=generator)
    coarse = torch.randn(count, shape[0], min(4, shape[1]), min(4, shape[2]), generator=generator)
    return F.interpolate(coarse, shape[1:], mode="bilinear", align_corners=False)
