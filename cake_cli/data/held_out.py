"""What a held-out set is to those who evaluate on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor


class HeldOut(Protocol):
    """Labelled rows that fit one `InputSpec`, read in order and in bounded memory, as often as wanted."""

    @property
    def name(self) -> str:
        """What the user called it: a path, or the name of a torchvision set."""

    @property
    def samples(self) -> int:
        """How many rows a pass gives; images found unreadable during a pass no longer count after it."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """K names in the model's order, where anyone knows them."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know: resized, turned grey, left out. May grow during the first pass."""

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass, in order.

        Args:
            batch_size: the greatest number of rows in a batch; a batch is never empty.

        Yields:
            x, float32 (N, *spec.shape) in the normalised space, and y, int64 (N,) in 0..K-1.

        Raises:
            DataError: if rows are damaged, not finite, or none of the images can be read.
        """
