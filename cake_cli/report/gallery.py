"""Which samples a person is shown: a few of each of a few classes, over all step sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from cake_cli.report.words import class_labels
from cake_cli.spec import InputSpec
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.samples import Samples

Item = TypeVar("Item")

MOST_CLASSES = 10
MOST_PER_CLASS = 8
MOST_SHARDS = 6
_KEPT_IMAGES = 4
_KEPT_VECTORS = 60


@dataclass(frozen=True)
class Shown:
    """One sample, and what the teacher says of it."""

    raw: NDArray[np.float32]
    """(*shape): de-normalised, within the raw range."""
    confidence: float
    """The teacher's probability of its most probable class."""
    step_size: float
    target: int
    """The class that it was drawn towards; -1 where there was none."""


@dataclass(frozen=True)
class ClassRow:
    """Samples that the teacher takes for one class, the largest step size first."""

    index: int
    name: str
    samples: tuple[Shown, ...]


def peek(bank: SampleBank) -> Samples | None:
    """A few samples of a few classes, from at most `MOST_SHARDS` shards that lie evenly from first to last.

    Raises:
        DataError: if a shard is damaged.
    """
    picked = spread(bank.manifest["shards"], MOST_SHARDS)
    if not picked:
        return None
    histogram = [sum(counts) for counts in zip(*(shard["health"]["histogram"] for shard in picked), strict=True)]
    wanted = torch.tensor(choose_classes(histogram))
    most = _KEPT_IMAGES if bank.spec.is_image else _KEPT_VECTORS
    most = MOST_PER_CLASS if len(picked) == 1 and bank.spec.is_image else most
    few = SampleBank(bank.path, bank.manifest | {"shards": picked})
    return Samples.join([_few(shard, wanted, most) for shard in few.shards()])


def _few(samples: Samples, wanted: torch.Tensor, most: int) -> Samples:
    predicted = samples.logits.argmax(dim=1)  # (N,)
    index = [i for k in wanted.tolist() for i in spread(torch.nonzero(predicted == k).flatten().tolist(), most)]
    return samples.select(torch.tensor(sorted(index), dtype=torch.long))


def choose_classes(histogram: Sequence[int]) -> list[int]:
    """At most `MOST_CLASSES` classes, evenly spread over those with enough samples.

    Args:
        histogram: samples of each of K classes.
    """
    present = [index for index, size in enumerate(histogram) if size]
    if len(present) <= MOST_CLASSES:
        return present
    enough = min(MOST_PER_CLASS, sorted((histogram[index] for index in present), reverse=True)[MOST_CLASSES - 1])
    return spread([index for index in present if histogram[index] >= enough], MOST_CLASSES)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many items, evenly from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(position * (len(items) - 1) / (most - 1))] for position in range(most)]


def rows_by_class(
    samples: Samples, spec: InputSpec, classes: int, class_names: Sequence[str] | None
) -> tuple[ClassRow, ...]:
    """At most `MOST_CLASSES` rows of at most `MOST_PER_CLASS` samples, by what the teacher takes them for.

    Args:
        samples: N of them; only those shown are de-normalised.
        spec: of their input.
        classes: K.
        class_names: K names, or None.
    """
    names = class_labels(class_names, classes)
    confidences, predicted = samples.logits.softmax(dim=1).max(dim=1)  # (N,)
    rows = []
    for index in choose_classes(torch.bincount(predicted, minlength=classes).tolist()):
        own = torch.nonzero(predicted == index).flatten()
        order = own[samples.step_sizes[own].argsort(descending=True, stable=True)]
        shown = spread(order.tolist(), MOST_PER_CLASS)
        raw = denormalise(samples.inputs[shown].numpy(), spec)
        rows.append(
            ClassRow(
                index,
                names[index],
                tuple(
                    Shown(row, float(confidences[i]), float(samples.step_sizes[i]), int(samples.targets[i]))
                    for row, i in zip(raw, shown, strict=True)
                ),
            )
        )
    return tuple(rows)


def denormalise(inputs: NDArray[np.float32], spec: InputSpec) -> NDArray[np.float32]:
    """Normalised values (N, *shape) to raw ones, z · std + mean, clipped to the raw range where there is one."""
    ones = (1,) * (len(spec.shape) - 1)
    std = np.asarray(spec.std, np.float32).reshape(-1, *ones)
    mean = np.asarray(spec.mean, np.float32).reshape(-1, *ones)
    raw = inputs * std + mean  # (N, *shape)
    return raw if spec.range is None else raw.clip(*spec.range)
