"""Changes of synthetic samples, each labelled anew by the teacher on the very view that the student sees.

Every view changes a random half of the samples of a batch, so that some are seen as they were made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.config import View
from cake_cli.distillation.feeding import Labelled
from cake_cli.errors import UsageError
from cake_cli.hardware import Hardware

SHARE = 0.5
"""Of the samples, how many a view changes."""
SHIFT = 1 / 8
"""Of height and width, how far an image is shifted at most (4 of 32 pixels, as is usual on CIFAR)."""
NOISE = 0.1
"""Standard deviation of the noise, in normalised units."""


def require_possible(names: tuple[View, ...], shape: tuple[int, ...], group: int) -> None:
    """Refuses views that such samples do not have.

    Args:
        names: of the views.
        shape: of one input.
        group: samples of a row; 0 if there are no synthetic samples.

    Raises:
        UsageError: with the views that would do.
    """
    if group == 0:
        raise UsageError("--views is for synthetic samples, and there are none", "leave it out, or --samples 20000")
    of_images = [name for name in names if name in ("shift", "flip")]
    if of_images and len(shape) != 3:
        raise UsageError(f"vectors have no {' or '.join(of_images)}", "--views mix,noise")
    if "mix" in names and group < 2:
        raise UsageError("samples of this bank have no others in their rows to be mixed with", "leave mix out")


@dataclass(frozen=True)
class Views:
    """Makes views of batches."""

    names: tuple[View, ...]
    """Which, of mix, shift, flip and noise; they are made in this order of the four."""
    teacher: Callable[[Tensor], Tensor]
    """Logits (N, K) of rows (N, *shape), on the device."""
    hardware: Hardware

    def __call__(self, batch: Labelled, generator: torch.Generator) -> Labelled:
        """A batch as the student is to see it.

        Real samples, those with a true label, stay as they are, with the teacher's logits that they have.

        Args:
            batch: on the device, with partners where samples are mixed.
            generator: on the device.
        """
        rows = batch.inputs
        fixed = None if batch.labels is None else batch.labels >= 0
        if "mix" in self.names and batch.partners is not None:
            rows = self._half(rows, mixed(rows, batch.partners, generator), fixed, generator)
        if "shift" in self.names:
            rows = self._half(rows, shifted(rows, generator), fixed, generator)
        if "flip" in self.names:
            rows = self._half(rows, rows.flip(3), fixed, generator)
        if "noise" in self.names:
            rows = self._half(rows, noisy(rows, generator), fixed, generator)
        with torch.no_grad(), self.hardware.autocast():
            logits = self.teacher(rows).float()
        if fixed is not None:
            logits = torch.where(fixed[:, None], batch.logits, logits)
        return replace(batch, inputs=rows, logits=logits, partners=None)

    @staticmethod
    def _half(rows: Tensor, changed: Tensor, fixed: Tensor | None, generator: torch.Generator) -> Tensor:
        chosen = torch.rand(len(rows), device=rows.device, generator=generator) < SHARE
        if fixed is not None:
            chosen &= ~fixed
        return torch.where(_over(chosen, rows), changed, rows)


def _over(values: Tensor, rows: Tensor) -> Tensor:
    """(N,) shaped to go with rows (N, *shape)."""
    return values.reshape(-1, *(1,) * (rows.dim() - 1))


def mixed(rows: Tensor, partners: Tensor, generator: torch.Generator) -> Tensor:
    """Points between samples and others of their rows, which the objective drew together across a boundary.

    Mixup (Zhang et al. 2018) with Beta(1, 1), inside a row, and without its mixed labels.

    Args:
        rows: (N, *shape).
        partners: (N, *shape), another sample of each one's row.
        generator: on the device.
    """
    share = torch.rand(len(rows), device=rows.device, generator=generator)
    return torch.lerp(rows, partners, _over(share, rows))


def shifted(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W), each moved by whole pixels, up to `SHIFT` of its size; what comes in repeats the edge."""
    count, _, height, width = rows.shape
    far = (max(1, round(SHIFT * height)), max(1, round(SHIFT * width)))
    padded = F.pad(rows, (far[1], far[1], far[0], far[0]), mode="replicate").movedim(1, 3)  # (N, H', W', C)
    device = rows.device

    def window(size: int, reach: int) -> Tensor:
        start = torch.randint(0, 2 * reach + 1, (count, 1), device=device, generator=generator)
        return start + torch.arange(size, device=device)  # (N, size)

    down, right = window(height, far[0]), window(width, far[1])
    number = torch.arange(count, device=device)[:, None, None]
    return padded[number, down[:, :, None], right[:, None, :]].movedim(3, 1)  # (N, H, W, C) -> (N, C, H, W)


def noisy(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Rows (N, *shape) with Gaussian noise of `NOISE`."""
    noise = torch.randn(rows.shape, device=rows.device, generator=generator)
    return rows + NOISE * noise
