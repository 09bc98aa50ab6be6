"""Running counts of one model's answers, from which its `Evaluation` is made."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from cake_cli.data.evaluation import ClassRecall, ConfidenceBin, Evaluation
from cake_cli.interval import wilson_interval

CALIBRATION_BINS = 15
CONFIDENCE_EDGES = (0.0, 0.5, 0.7, 0.9, 0.95, 0.99, 1.0)
"""Teachers are mostly sure, so the bins are narrow there."""
SURE = 1 - 2**-23
"""Of more than that the last bin takes nothing: torchmetrics has one of their own for confidences of exactly 1."""
ALONE: dict[str, Any] = {"sync_on_compute": False}
"""One process measures: of several ranks the others would be waited for in vain."""


class Tally:
    """Counts on the CPU, whatever the model runs on: exact, repeatable, and the same on every device.

    Args:
        classes: K.
        against_teacher: whether teacher logits come with every update.
    """

    def __init__(self, classes: int, *, against_teacher: bool) -> None:
        from torchmetrics.classification import MulticlassCalibrationError, MulticlassConfusionMatrix  # takes seconds

        self._calibration = MulticlassCalibrationError(classes, n_bins=CALIBRATION_BINS, norm="l1", **ALONE)
        self._confusion = MulticlassConfusionMatrix(classes, **ALONE)
        self._against = _TeacherTally(classes) if against_teacher else None
        self._classes = classes
        self._among_top5 = 0
        self._has_fifth = False  # a model of labels alone says of no class that it is the fifth
        self._samples = 0

    def update(self, logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> None:
        """Counts one batch.

        Args:
            logits: float (N, K), finite, on the CPU.
            labels: int64 (N,).
            teacher_logits: float (N, K), where the tally is against a teacher.
        """
        self._samples += len(labels)
        predicted = logits.argmax(dim=1)  # (N, K) -> (N,)
        if self._classes > 5:  # torchmetrics would spread every row over K one-hot columns: minutes at K = 1000
            top = logits.topk(6, dim=1)  # (N, K) -> (N, 6)
            self._among_top5 += int((top.indices[:, :5] == labels.unsqueeze(1)).sum())
            self._has_fifth |= bool((top.values[:, 4] > top.values[:, 5]).any())
        self._calibration.update(logits.softmax(dim=1).clamp(max=SURE), labels)
        self._confusion.update(predicted, labels)
        if self._against is not None and teacher_logits is not None:
            self._against.update(logits, predicted, teacher_logits)

    def evaluation(self, class_names: tuple[str, ...] | None) -> Evaluation:
        """The metrics of all batches so far, of which there must be one.

        Args:
            class_names: K names, or None.
        """
        confusion = self._confusion.compute()  # (K, K)
        hits = int(confusion.diagonal().sum())
        evaluation = Evaluation(
            samples=self._samples,
            accuracy=hits / self._samples,
            accuracy_interval=wilson_interval(hits / self._samples, self._samples),
            top5=self._among_top5 / self._samples if self._has_fifth else None,
            ece=float(self._calibration.compute()),
            per_class=_recalls(confusion, class_names),
            confusion=_rows(confusion),
        )
        return evaluation if self._against is None else self._against.added_to(evaluation)


class _TeacherTally:
    """The part of a tally that compares a model with its teacher."""

    def __init__(self, classes: int) -> None:
        from torchmetrics.classification import MulticlassConfusionMatrix

        self._edges = torch.tensor(CONFIDENCE_EDGES, dtype=torch.float64)
        self._together = MulticlassConfusionMatrix(classes, **ALONE)
        self._divergence = 0.0
        self._binned = torch.zeros(len(CONFIDENCE_EDGES) - 1, dtype=torch.int64)  # (bins,) samples
        self._agreed = torch.zeros_like(self._binned)  # (bins,) samples on which both agree

    def update(self, logits: Tensor, predicted: Tensor, teacher_logits: Tensor) -> None:
        """Counts one batch: (N, K), (N,), (N, K)."""
        log_teacher = teacher_logits.double().log_softmax(dim=1)
        log_student = logits.double().log_softmax(dim=1)
        self._divergence += float(kl_div(log_student, log_teacher, reduction="sum", log_target=True))
        confidence, chosen = log_teacher.exp().max(dim=1)  # (N, K) -> (N,), (N,)
        self._together.update(predicted, chosen)
        bins = torch.bucketize(confidence, self._edges[1:-1])  # (N,), bin i is (edge i, edge i + 1]
        self._binned += bins.bincount(minlength=len(self._binned))
        self._agreed += bins[predicted == chosen].bincount(minlength=len(self._binned))

    def added_to(self, evaluation: Evaluation) -> Evaluation:
        """The evaluation with its metrics against the teacher."""
        samples = evaluation.samples
        agreed = int(self._agreed.sum())
        return replace(
            evaluation,
            agreement=agreed / samples,
            agreement_interval=wilson_interval(agreed / samples, samples),
            kl=max(self._divergence / samples, 0.0),  # rounding of equal outputs
            agreement_by_confidence=tuple(
                ConfidenceBin(low, high, count, both / count if count else None)
                for (low, high), count, both in zip(
                    pairwise(CONFIDENCE_EDGES), self._binned.tolist(), self._agreed.tolist(), strict=True
                )
            ),
            student_vs_teacher=_rows(self._together.compute()),
        )


def _recalls(confusion: Tensor, class_names: tuple[str, ...] | None) -> tuple[ClassRecall, ...]:
    supports, given = confusion.sum(dim=1).tolist(), confusion.sum(dim=0).tolist()  # (K, K) -> K, K
    names = class_names or [None] * len(supports)
    columns = zip(names, confusion.diagonal().tolist(), supports, given, strict=True)
    return tuple(
        ClassRecall(index, name, hits / support if support else None, hits / said if said else None, support)
        for index, (name, hits, support, said) in enumerate(columns)
    )


def _rows(table: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in table.tolist())
