"""How samples came out: on target or not, how sure the teacher is, which classes they cover; when it is no use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from cake_cli.errors import RunError

if TYPE_CHECKING:  # who reads a manifest needs no tensors, and torch takes seconds to import
    from torch import Tensor

    from cake_cli.synthesis.samples import Samples

COLLAPSED = 0.1
"""Balance of the class histogram below which samples count as degenerate."""
NARROW, UNDECIDED = 0.25, 0.99
"""Balance below which labels alone teach little, and entropy of the soft labels, as a share of its greatest, above
which they teach nothing: the teacher is asked where it has not learned to tell, most likely in another scale."""
MANY_DEAD = 0.2
"""Share of dead samples that makes them the likely cause of a collapse."""
MOST_LISTED = 20
"""Classes whose counts fit in a line."""
ALIKE = 0.2
"""Variety below which the samples of a class are as good as one: a generator's have 0.05 to 0.1, of walks above 0.8."""
EARLY_SHARE = 0.2
EARLY_SAMPLES = 500
"""What must be there before a bank that is not finished can count as degenerate. The sets with the largest step
sizes come first and can be worse than the rest."""


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
    saturated: float | None = None
    """Share whose most probable class has probability 1 in float32: their soft label is a hard one. None in banks
    of before this was measured."""
    dead: float | None = None
    """Share at whose starting point the teacher had no gradient, after redrawing; None where none was asked for."""
    redrawn: int = 0
    """Samples whose starting point was drawn again for that reason."""
    variety: float | None = None
    """Share of the inputs' variance that lies within their most probable classes, 0 to 1: near 0 where each class is
    one picture again and again, as of a generator that has collapsed. None where too few of a class are there."""

    @property
    def balance(self) -> float:
        """Entropy of the class histogram relative to its greatest value: 1 is even, 0 is one class."""
        return evenness(self.histogram)

    def to_json(self) -> dict[str, Any]:
        """As plain values, for the manifest."""
        return asdict(self)

    @staticmethod
    def of(samples: Samples, *, dead: Tensor | None = None, redrawn: Tensor | None = None) -> Health:
        """Measures samples by their logits; `dead` and `redrawn` are masks (N,) from the engine."""
        import torch

        log_probabilities = samples.logits.log_softmax(dim=1)  # (N, K)
        confidence, predicted = log_probabilities.exp().max(dim=1)
        return Health(
            samples=len(samples),
            on_target=float((predicted == samples.targets).float().mean()),
            confidence=float(confidence.mean()),
            entropy=float(-(log_probabilities.exp() * log_probabilities).sum(dim=1).mean()),
            histogram=tuple(torch.bincount(predicted, minlength=samples.logits.shape[1]).tolist()),
            saturated=float((samples.logits.softmax(dim=1).amax(dim=1) >= 1).float().mean()),
            dead=None if dead is None else float(dead.float().mean()),
            redrawn=0 if redrawn is None else int(redrawn.sum()),
            variety=_variety(samples.inputs, predicted),
        )

    @staticmethod
    def of_sets(samples: Samples, size: int, *, dead: Tensor | None, redrawn: Tensor | None) -> list[Health]:
        """The health of each set of `size` consecutive samples; otherwise as `of`."""
        import torch

        found = []
        for first in range(0, len(samples), size):
            own = torch.arange(first, min(first + size, len(samples)))
            masks = [None if mask is None else mask[own] for mask in (dead, redrawn)]
            found.append(Health.of(samples.select(own), dead=masks[0], redrawn=masks[1]))
        return found

    @staticmethod
    def combine(parts: Iterable[Health]) -> Health:
        """The health of all parts together."""
        listed = list(parts)
        total = sum(part.samples for part in listed)

        def mean(name: str) -> float:
            return sum(float(getattr(part, name)) * part.samples for part in listed) / total

        def mean_if_known(name: str) -> float | None:
            return mean(name) if all(getattr(part, name) is not None for part in listed) else None

        return Health(
            samples=total,
            on_target=mean("on_target"),
            confidence=mean("confidence"),
            entropy=mean("entropy"),
            histogram=tuple(sum(counts) for counts in zip(*(part.histogram for part in listed), strict=True)),
            saturated=mean_if_known("saturated"),
            dead=mean_if_known("dead"),
            redrawn=sum(part.redrawn for part in listed),
            variety=mean_if_known("variety"),
        )

    @staticmethod
    def columns(parts: Sequence[Health]) -> dict[str, list[Any]]:
        """Every figure but the number of samples as a list, one entry a part, for the manifest."""
        names = [entry.name for entry in fields(Health) if entry.name != "samples"]
        return {name: [getattr(part, name) for part in parts] for name in names}

    def describe_classes(self, names: Sequence[str] | None = None) -> str:
        """``0 812, 1 790, ...`` samples by most probable class; least and most where there are too many to list."""
        labels = names or [str(index) for index in range(len(self.histogram))]
        if len(labels) <= MOST_LISTED:
            return ", ".join(f"{label} {count:,}" for label, count in zip(labels, self.histogram, strict=True))
        least, most, empty = min(self.histogram), max(self.histogram), self.histogram.count(0)
        return f"{least:,} to {most:,} in each of {len(labels)}" + (f", none in {empty:,}" if empty else "")

    def describe(self, *, aimed: bool) -> str:
        """``on target 72.7%   balance 0.97``; `aimed` if there were targets."""
        return f"{f'on target {self.on_target:.1%}   ' if aimed else ''}balance {self.balance:.2f}"

    def describe_labels(self) -> str:
        """``confidence 0.76   entropy 0.71   saturated 0.1%   dead 0.0%``, as far as it is known."""
        parts = [f"confidence {self.confidence:.2f}", f"entropy {self.entropy:.2f}"]
        parts += [] if self.saturated is None else [f"saturated {self.saturated:.1%}"]
        parts += [] if self.dead is None else [f"dead {self.dead:.1%}"]
        parts += [f"redrawn {self.redrawn:,}"] if self.redrawn else []
        parts += [] if self.variety is None else [f"variety {self.variety:.2f}"]
        return "   ".join(parts)

    def doubt(self, *, aimed: bool) -> str | None:
        """What to say of samples that are hardly worth a student's time; `aimed` if there were targets.

        Where there were, samples of one class are refused (`require_spread`), and only the boundary is undecided.
        """
        share, classes = max(self.histogram) / self.samples, len(self.histogram)
        fix = "check --input-range, --mean and --std; `cake inspect` says what the teacher responds to"
        if not aimed and self.balance < NARROW:
            return f"the teacher puts {share:.0%} of them in one of its {classes} classes, so they teach little: {fix}"
        if not aimed and self.entropy > UNDECIDED * math.log(classes):
            sure = f"confidence {self.confidence:.2f}"
            return f"the teacher is undecided about them ({sure}), so they teach little: {fix}"
        if self.variety is None or self.variety >= ALIKE:
            return None
        return (
            f"the samples of a class are nearly alike (variety {self.variety:.1%}), so a student learns one picture "
            "of each: another --method, or --noise both"
        )


def evenness(histogram: Sequence[int]) -> float:
    """Entropy of counts by class relative to its greatest value: 1 is even, 0 is one class."""
    total = sum(histogram)
    shares = [count / total for count in histogram if count]
    return max(0.0, -sum(share * math.log(share) for share in shares) / math.log(len(histogram)))


def _variety(inputs: Tensor, classes: Tensor) -> float | None:
    """See `Health.variety`; of inputs (N, *shape) by class (N,), both on one device."""
    import torch

    found, which = torch.unique(classes, return_inverse=True)
    rows, count = inputs.flatten(1).double(), len(found)  # (N, D)
    if len(rows) < 2 * count:
        return None
    sizes = torch.bincount(which).double()[:, None]  # (C, 1)
    centres = rows.new_zeros(count, rows.shape[1]).index_add_(0, which, rows) / sizes  # (C, D)
    within = float((rows - centres[which]).square().sum()) / (len(rows) - count)
    whole = float((rows - rows.mean(dim=0)).square().sum()) / (len(rows) - 1)
    return round(min(1.0, within / whole), 4) if whole > 0 else 0.0


def require_spread(health: Health, *, planned: int) -> None:
    """Refuses samples that have collapsed into one class: at the end, and as soon as enough of them are there.

    Args:
        health: of the samples so far.
        planned: how many there will be.

    Raises:
        RunError: if they have.
    """
    unfinished = health.samples < planned
    if unfinished and health.samples < max(EARLY_SAMPLES, EARLY_SHARE * planned):
        return
    if health.balance < COLLAPSED:
        classes = len(health.histogram)
        so_far = f" of the first {health.samples:,}" if unfinished else " of them"
        dead = health.dead or 0.0
        cause = f", and has no gradient where {dead:.0%} began" if dead > MANY_DEAD else ""
        raise RunError(
            f"the samples are degenerate: the teacher puts {max(health.histogram) / health.samples:.0%}{so_far} in one "
            f"of its {classes} classes{cause}",
            "check --input-range, --mean and --std; --steps 256; "
            + ("--set synthesis.redraws=32" if cause else "or a smaller --set synthesis.tv_weight"),
        )
