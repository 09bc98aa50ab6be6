"""How samples came out: on target or not, how sure the teacher is, which classes they cover."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from cake_cli.synthesis.samples import Samples


@dataclass(frozen=True)
class Health:
    """What a set of samples looks like to the teacher."""

    samples: int
    on_target: float
    """Share whose most probable class is the target; nan-free: 0 where there are no targets."""
    confidence: float
    """Mean probability of the most probable class."""
    entropy: float
    """Mean entropy of the soft labels, in nats."""
    histogram: tuple[int, ...]
    """Samples by most probable class, K numbers."""

    @property
    def balance(self) -> float:
        """Entropy of the class histogram relative to its greatest value: 1 is even, 0 is one class."""
        total = sum(self.histogram)
        shares = [count / total for count in self.histogram if count]
        return -sum(share * math.log(share) for share in shares) / math.log(len(self.histogram))

    def to_json(self) -> dict[str, Any]:
        """As plain values, for the manifest."""
        return asdict(self)

    @staticmethod
    def of(samples: Samples) -> Health:
        """Measures samples by their logits."""
        log_probabilities = samples.logits.log_softmax(dim=1)  # (N, K)
        confidence, predicted = log_probabilities.exp().max(dim=1)
        return Health(
            samples=len(samples),
            on_target=float((predicted == samples.targets).float().mean()),
            confidence=float(confidence.mean()),
            entropy=float(-(log_probabilities.exp() * log_probabilities).sum(dim=1).mean()),
            histogram=tuple(torch.bincount(predicted, minlength=samples.logits.shape[1]).tolist()),
        )

    @staticmethod
    def combine(parts: Iterable[Health]) -> Health:
        """The health of all parts together."""
        listed = list(parts)
        total = sum(part.samples for part in listed)

        def mean(name: str) -> float:
            return sum(float(getattr(part, name)) * part.samples for part in listed) / total

        histogram = tuple(sum(counts) for counts in zip(*(part.histogram for part in listed), strict=True))
        return Health(total, mean("on_target"), mean("confidence"), mean("entropy"), histogram)
