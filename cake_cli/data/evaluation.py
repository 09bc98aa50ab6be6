"""What was measured of one model on a held-out set."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

JSON_CONFUSION_LIMIT = 100
"""Above so many classes K, the K×K tables stay out of the JSON."""


@dataclass(frozen=True)
class ClassRecall:
    """How one true class fared."""

    index: int
    """0..K-1."""
    name: str | None
    """Where it is known."""
    recall: float | None
    """Share of the class's samples that the model gives this class, the class's accuracy; None without samples."""
    precision: float | None
    """Share of the samples that the model gives this class and that are of it; None where it gives none."""
    support: int
    """How many samples truly are of this class."""


@dataclass(frozen=True)
class ConfidenceBin:
    """Agreement where the teacher's confidence lies in (low, high]."""

    low: float
    high: float
    samples: int
    agreement: float | None
    """None without samples."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model; those against a teacher are None where there is none."""

    samples: int
    """N."""
    accuracy: float
    """Share of samples whose top class is the label."""
    accuracy_interval: tuple[float, float]
    """95 %, Wilson's."""
    top5: float | None
    """Share of samples whose label is among the 5 top classes; None where K <= 5, as it would always be 1, and of a
    model that gives labels alone."""
    ece: float
    """Expected calibration error, 15 equal bins, L1 (Guo et al., 2017, section 2)."""
    per_class: tuple[ClassRecall, ...]
    """K of them."""
    confusion: tuple[tuple[int, ...], ...]
    """(K, K), rows the labels, columns the model's predictions."""
    agreement: float | None = None
    """Share of samples on which the model's top class is the teacher's."""
    agreement_interval: tuple[float, float] | None = None
    """95 %, Wilson's."""
    kl: float | None = None
    """Mean KL(teacher || model) of the softmax outputs, in nats."""
    agreement_by_confidence: tuple[ConfidenceBin, ...] | None = None
    """By the teacher's confidence."""
    student_vs_teacher: tuple[tuple[int, ...], ...] | None = None
    """(K, K), rows the teacher's predictions, columns the model's."""

    def to_json(self) -> dict[str, Any]:
        """As plain values under the names of the fields; without K×K tables where K > 100."""
        if len(self.per_class) <= JSON_CONFUSION_LIMIT:
            return asdict(self)
        fields = asdict(replace(self, confusion=(), student_vs_teacher=None))
        del fields["confusion"], fields["student_vs_teacher"]
        return fields
