"""Gradients of a teacher that gives outputs only: differences along random directions.

The objective is known, and so is its gradient g in the logits. What is not known is the teacher's Jacobian J, and only
J^T g is needed: along a direction u of length 1 the antithetic difference ``g . (f(x + h u) - f(x - h u)) / 2h`` is
u^T J^T g up to h². With D orthonormal directions out of d dimensions, drawn anew at every step, the mean of
``(d / D) sum (u^T J^T g) u`` is J^T g (Nesterov and Spokoiny 2017; orthogonal directions: Choromanski et al. 2018).

On images directions are sums of the lowest frequencies (of the cosine transform), within which the estimate is
unbiased: fewer dimensions, so less noise from as many queries (Guo et al. 2019, "Low Frequency Adversarial
Perturbation").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimator:
    """How gradients in the input are estimated, sample by sample."""

    shape: tuple[int, ...]
    """Of a row: (C, H, W) or (D,)."""
    directions: int
    """D at most; there are no more than dimensions."""
    smoothing: float
    """Root mean square of a perturbation, in normalised units."""
    frequencies: int = 0
    """Of the lowest, along each axis of an image; 0 for all."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Shape of what directions are made of: the row's, or (C, H', W') of its lowest frequencies."""
        if len(self.shape) != 3 or not self.frequencies:
            return self.shape
        channels, height, width = self.shape
        return channels, min(height, self.frequencies), min(width, self.frequencies)

    @property
    def dimensions(self) -> int:
        """How many there are to draw from, d."""
        return math.prod(self.sizes)

    @property
    def used(self) -> int:
        """How many are taken, D, at most d: with as many the estimate is exact up to h²."""
        return min(self.directions, self.dimensions)

    @property
    def queries(self) -> int:
        """Rows that the teacher is asked for the gradient of one sample: the sample itself, and two a direction."""
        return 1 + 2 * self.used

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        """Orthonormal directions (rows, D, d) on the CPU, a set of its own for each row, uniformly distributed."""
        if self.used == self.dimensions:
            return torch.eye(self.dimensions).expand(rows, -1, -1)
        drawn = torch.randn(rows, self.dimensions, self.used, generator=generator)
        basis: Tensor = torch.linalg.qr(drawn).Q  # (rows, d, D)
        return basis.transpose(1, 2)

    def gradient(
        self,
        teacher: Callable[[Tensor], Tensor],
        rows: Tensor,
        pull: Tensor,
        streams: Sequence[torch.Generator],
    ) -> Tensor:
        """An estimate of J^T g.

        Args:
            teacher: from (N, *shape) to logits (N, K); asked 2 N rows for each direction.
            rows: (N, *shape), normalised.
            pull: (N, K), g: the gradient of the objective in the logits.
            streams: of the sets that the rows are, in turn.

        Returns:
            (N, *shape).
        """
        if not self.used:
            return torch.zeros_like(rows)
        size = len(rows) // len(streams)
        drawn = torch.cat([self.draw(size, own) for own in streams]).to(rows.device)  # (N, D, d)
        far = self.smoothing * math.sqrt(math.prod(self.shape))
        total = torch.zeros(len(rows), self.dimensions, device=rows.device)
        with torch.no_grad():
            for number in range(self.used):
                direction = drawn[:, number]  # (N, d)
                moved = far * self._as_rows(direction)
                ahead, behind = teacher(torch.cat([rows + moved, rows - moved])).float().chunk(2)  # (N, K) each
                slope = ((ahead - behind) * pull).sum(dim=1, keepdim=True) / (2 * far)  # (N, 1)
                total += slope * direction
        return self._as_rows(total * (self.dimensions / self.used)).contiguous()

    def _as_rows(self, coefficients: Tensor) -> Tensor:
        """(N, d) to (N, *shape), of the same length."""
        found = coefficients.reshape(-1, *self.sizes)
        if self.sizes == self.shape:
            return found
        device = coefficients.device
        down, across = (cosines(size, few).to(device) for size, few in zip(self.shape[1:], self.sizes[1:], strict=True))
        return down @ found @ across.T  # (N, C, H', W') -> (N, C, H, W)


def cosines(size: int, few: int) -> Tensor:
    """The lowest frequencies of the cosine transform (DCT-II), orthonormal: (size, few)."""
    place, frequency = torch.arange(size)[:, None], torch.arange(few)[None, :]
    waves = torch.cos(math.pi * (place + 0.5) * frequency / size) * math.sqrt(2 / size)
    waves[:, 0] = math.sqrt(1 / size)
    return waves
