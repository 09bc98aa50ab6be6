"""A converted graph as a classifier: rows in, as many rows of logits out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from cake_cli.models.opened import OutputKind


class OnnxClassifier(nn.Module):
    """A graph module whose result is brought into (N, K) logits.

    Args:
        body: the converted graph.
        kind: what the graph still ends in: probabilities that could not be taken off become their logarithm.
        has_batch: False where the graph takes one row without a batch axis.
        fixed: the only batch size that the graph is right for; None for any.
    """

    def __init__(
        self, body: nn.Module, *, kind: OutputKind = "logits", has_batch: bool = True, fixed: int | None = None
    ) -> None:
        super().__init__()
        self.body = body
        self.kind = kind
        self.has_batch = has_batch
        self.fixed = fixed
        self.by_class: nn.Module | None = None
        """Brings what the graph scores, where that is pairs of classes, to one score a class."""
        self.eval()
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of rows.

        Args:
            x: (N, *row), or one row where there is no batch axis.

        Returns:
            (N, K), or (K,) for one row without a batch axis.

        Raises:
            ValueError: for a batch size that the graph has not been made for, or if rows go missing.
        """
        if not self.has_batch:
            return self._finished(self.body(x).reshape(1, -1))[0]
        n = x.shape[0]
        if self.fixed is not None and n != self.fixed:
            raise ValueError(f"the file fixes its batch at {self.fixed}, {n} rows were given")
        y: Tensor = self.body(x)
        if y.dim() == 0 or y.shape[0] != n:
            raise ValueError(f"{n} rows went in and {list(y.shape)} came out")
        return self._finished(y if y.dim() == 2 else y.reshape(n, -1))

    def _finished(self, y: Tensor) -> Tensor:
        logits = self._logits(y)
        if self.by_class is None:
            return logits
        scores: Tensor = self.by_class(logits)
        return scores

    def as_logits(self, results: np.ndarray) -> np.ndarray:
        """What `forward` makes of results of the graph, (N, K)."""
        return self._logits(torch.from_numpy(results)).numpy()

    def _logits(self, y: Tensor) -> Tensor:
        return torch.log(y.clamp_min(torch.finfo(y.dtype).tiny)) if self.kind == "probs" else y
