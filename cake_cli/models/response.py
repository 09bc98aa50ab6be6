"""At which scale of its inputs a classifier's outputs respond: a hint of the values that it was trained on."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.models.classifier import Classifier
from cake_cli.spec import InputSpec

SCALES = (1.0, 100.0, 10.0, 1000.0, 0.1, 0.01)
"""The spreads of the inputs that are tried, those that tell most first."""
ROWS = 4
SECONDS = 0.5
"""How long scales are tried: a large network gets fewer."""
FEW = 0.02
"""A change of probabilities below this is none."""
FAR = 30.0
"""How many times larger or smaller than assumed a scale is that is worth a word."""


@dataclass(frozen=True)
class Response:
    """How much the probabilities change between random inputs of one scale."""

    changes: dict[float, float] = field(default_factory=dict)
    """By the spread of the inputs: the mean total variation between two rows' probabilities, 0 to 1."""
    assumed: float = 1.0
    """The scale that the file is taken to have."""

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

    def doubt(self) -> str | None:
        """What to check, where the scale is far from the one assumed."""
        if self.scale is None or len(self.changes) < len(SCALES):
            return None
        if self.scale >= FAR * self.assumed:
            return (
                f"it responds to values {self.scale / self.assumed:g} times larger than assumed: "
                "if it takes raw ones, --input-range 0,255, or --mean and --std"
            )
        if self.scale * FAR <= self.assumed:
            return (
                f"it responds to values {self.assumed / self.scale:g} times smaller than assumed: check --input-range"
            )
        return None


def measure_response(model: Classifier) -> Response:
    """Tries a classifier on random inputs of several scales, for about half a second."""
    changes: dict[float, float] = {}
    start, longest = time.monotonic(), 0.0
    for scale in SCALES:
        begun = time.monotonic()
        if begun - start + longest > SECONDS and changes:
            break
        changes[scale] = _change(model, _rows(model.spec.shape) * scale)
        longest = max(longest, time.monotonic() - begun)
    return Response(changes if len(changes) > 1 else {}, _assumed(model.spec))


def _assumed(spec: InputSpec) -> float:
    """The power of ten of the values that the file is taken to take."""
    if spec.expects == "normalised":
        return 1.0
    largest = max(abs(mean) for mean in spec.mean) + max(spec.std)
    return 10.0 ** round(math.log10(max(largest, 1e-6)))


def _rows(shape: tuple[int, ...]) -> Tensor:
    """Inputs of scale one, (`ROWS`, *shape): smooth normal images, to which networks respond more than to noise."""
    generator = torch.Generator().manual_seed(0)
    if len(shape) == 1:
        return torch.randn(ROWS, *shape, generator=generator)
    coarse = torch.randn(ROWS, shape[0], min(4, shape[1]), min(4, shape[2]), generator=generator)
    return F.interpolate(coarse, shape[1:], mode="bilinear", align_corners=False)


def _change(model: Classifier, raw: Tensor) -> float:
    """The mean total variation between the probabilities of two of the rows (N, *shape), as the file takes them."""
    spec = model.spec
    if spec.expects == "raw":
        axes = (-1, *(1,) * (len(spec.shape) - 1))
        raw = (raw - torch.tensor(spec.mean).reshape(axes)) / torch.tensor(spec.std).reshape(axes)
    with torch.no_grad():
        probabilities = model(raw).double().softmax(1)  # (N, K)
    pairs = torch.pdist(probabilities, p=1) / 2  # (N (N - 1) / 2,)
    return float(pairs.nan_to_num(0.0).mean())
