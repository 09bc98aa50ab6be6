"""A model that is asked from outside: rows out of torch, and what it says back in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cake_cli.errors import RunError
from cake_cli.models.blackbox.client import TooLarge, TooLong
from cake_cli.models.classifier import logits_of_labels
from cake_cli.models.opened import OutputKind


@dataclass(frozen=True)
class Answer:
    """What was said to some rows."""

    values: np.ndarray
    """(N, K) scores, float32; or (N,) labels, int64."""
    kind: OutputKind | None = None
    """What the values are, where the answer says it."""


class Oracle(Protocol):
    """Whoever answers."""

    def ask(self, rows: np.ndarray) -> Answer:
        """What is said to float32 rows (N, *row); N answers."""


class BlackBox(nn.Module):
    """An oracle as a module without a gradient.

    Args:
        oracle: who is asked.
        most_rows: of one question; None for any number.
        classes: K, where only labels are said, or where it is known; otherwise the first answer tells.
    """

    def __init__(self, oracle: Oracle, *, most_rows: int | None = None, classes: int | None = None) -> None:
        super().__init__()
        self.oracle = oracle
        self.most_rows = most_rows
        self.classes = classes
        self.columns: int | None = None
        """Numbers of an answer to a row, as the first one tells: of two classes one may stand for both."""
        self.kind: OutputKind | None = None
        """What answers are, where they say it."""
        self.asked = 0
        """Rows so far."""

    def forward(self, rows: Tensor) -> Tensor:
        """(N, *row) to what was said, (N, K): scores, or the logits of labels.

        Raises:
            RunError: if an answer is none, or not of the form of the first.
            EnvironmentFault: if there is no answer.
        """
        given = rows.detach().float().cpu().numpy()
        parts: list[Tensor] = []
        first = 0
        while first < len(given):
            some = given[first : first + (self.most_rows or len(given))]
            try:
                parts.append(self._part(some))
            except (TooLarge, TooLong):
                if len(some) == 1:
                    raise
                self.most_rows = len(some) // 2
                continue
            first += len(some)
        return torch.cat(parts).to(rows.device)

    def _part(self, rows: np.ndarray) -> Tensor:
        answer = self.oracle.ask(rows)
        if self.asked and answer.kind != self.kind:
            told, before = (kind or "scores" for kind in (answer.kind, self.kind))
            raise RunError(f"an answer holds {told}, and those before held {before}", "the same for every input")
        self.asked += len(rows)
        values = torch.from_numpy(answer.values)
        if len(values) != len(rows):
            raise RunError(f"{len(rows)} rows were asked and {len(values)} were answered", "an answer for each row")
        if not bool(values.isfinite().all()):
            raise RunError(
                "an answer is not a finite number",
                "check --input-range, --mean and --std; or --outputs labels, where its labels are good",
            )
        self.kind = answer.kind
        if values.dim() == 1:
            return self._labels(values)
        columns = values.shape[1]
        if self.columns is None and (self.classes in (None, columns) or (self.classes, columns) == (2, 1)):
            self.columns = columns
        if columns != self.columns:
            raise RunError(
                f"an answer has {columns} numbers a row, and {self.columns or self.classes} were expected",
                "as many scores for every input; --classes K where only labels are answered",
            )
        return values

    def _labels(self, labels: Tensor) -> Tensor:
        self.kind = "labels"
        if self.classes is None:
            raise RunError("the answers are labels, and do not tell of how many classes", "--classes K")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.classes:
            raise RunError(
                f"the label {low if low < 0 else high} was answered, of {self.classes} classes from 0",
                "--classes K, with labels from 0 to K - 1",
            )
        return logits_of_labels(labels, self.classes)
