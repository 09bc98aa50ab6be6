"""The section on synthetic samples: a gallery, and how they came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cake_cli.config import LABELLED_ONLY
from cake_cli.report.canvas import Picture, data_uri, picture
from cake_cli.report.gallery import ClassRow, Shown, rows_by_class
from cake_cli.report.sheet import draw_samples
from cake_cli.report.tiles import channels_note, encode, pixels, shrink, value_range
from cake_cli.report.words import class_labels, count, dig, figure, number, percent, plural
from cake_cli.spec import InputSpec
from cake_cli.synthesis.samples import Samples

_MOST_NAMED = 8


@dataclass(frozen=True)
class Tile:
    """One picture of the gallery."""

    source: str
    """Its PNG as a data: address."""
    alt: str
    confidence: str


@dataclass(frozen=True)
class SampleSection:
    """What the page shows of the samples: rows of tiles for images, one picture for vectors."""

    rows: tuple[tuple[str, tuple[Tile, ...]], ...]
    picture: Picture | None
    pixelated: bool
    """Whether the pictures are so small that their pixels should be seen."""
    caption: str


def sample_section(samples: Samples, spec: InputSpec, classes: int, class_names: Sequence[str] | None) -> SampleSection:
    """The gallery of a few samples; arguments as `sample_sheet`."""
    listed = rows_by_class(samples, spec, classes, class_names)
    named = len(listed) < classes and len(set(samples.logits.argmax(dim=1).tolist())) >= len(listed)
    some = f"{len(listed)} of {count(classes)} classes. " if named else ""
    caption = (
        f"{some}Each row holds samples that the teacher takes for one class, "
        "from the largest step size on the left to the smallest on the right, with the teacher's confidence. "
    )
    if not spec.is_image:
        caption = f"{some}Each line is one sample in the units of the data, grouped by what the teacher takes it for, "
        caption += "with step sizes falling from top to bottom."
        if spec.shape == (2,):
            caption = "Each mark is one sample in the units of the data, larger where the teacher is surer."
        alt = f"Synthetic samples of {', '.join(row.name for row in listed)}."
        drawn = picture(lambda theme: draw_samples(samples, spec, classes, class_names, theme), alt)
        return SampleSection((), drawn, False, caption)
    limits = value_range(listed, spec)
    labels = class_labels(class_names, classes)
    rows = tuple((row.name, tuple(_tile(row, shown, labels, limits) for shown in row.samples)) for row in listed)
    return SampleSection(rows, None, max(spec.shape[1:]) <= 64, caption + channels_note(spec.channels))


def _tile(row: ClassRow, shown: Shown, labels: tuple[str, ...], limits: tuple[float, float]) -> Tile:
    told = f"Sample taken for {row.name} with confidence {percent(shown.confidence, 0)}"
    if shown.target not in (-1, row.index) and shown.target < len(labels):
        told += f", though drawn towards {labels[shown.target]}"
    source = data_uri(encode(shrink(pixels(shown.raw, limits))))
    return Tile(source, f"{told}; step size {shown.step_size:.1e}", percent(shown.confidence, 0))


def health_facts(record: Mapping[str, Any], labels: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """How the samples came out: name, figure and small print of each fact that is known."""
    synthesis, health = dig(record, "synthesis"), dig(record, "synthesis", "health")
    aimed = dig(synthesis, "method") not in LABELLED_ONLY
    facts = [
        ("Samples", count(dig(health, "samples")), ""),
        ("On target", percent(dig(health, "on_target")), "taken for the class that they were drawn towards"),
        ("Mean confidence", percent(dig(health, "confidence")), "the teacher's, in its first choice"),
        ("Entropy of the labels", f"{figure(dig(health, 'entropy'))} nats", "0 is certainty"),
        ("Saturated", percent(dig(health, "saturated")), "with a probability of 1: their soft label is a hard one"),
        ("Dead", percent(dig(health, "dead")), _redrawn(dig(health, "redrawn"))),
        ("Variety", figure(dig(health, "variety")), "share of the variance within classes: at 0 each is one picture"),
        ("Balance", figure(dig(synthesis, "balance")), _balance(dig(health, "histogram"), labels)),
    ]
    known = {"Samples": "samples", "On target": "on_target", "Mean confidence": "confidence"}
    known |= {"Entropy of the labels": "entropy", "Saturated": "saturated", "Dead": "dead", "Variety": "variety"}
    return [
        fact
        for fact in facts
        if number(dig(health, known[fact[0]]) if fact[0] in known else dig(synthesis, "balance")) is not None
        and (aimed or fact[0] != "On target")
    ]


def _redrawn(count_: Any) -> str:
    told = "began where the teacher has no gradient"
    redrawn = number(count_)
    return f"{told}, after {plural(redrawn, 'start')} were drawn again" if redrawn else told


def _balance(histogram: Any, labels: tuple[str, ...]) -> str:
    if not isinstance(histogram, Sequence) or len(histogram) != len(labels):
        return "1 is even over the classes"
    missing = [name for name, size in zip(labels, histogram, strict=True) if not size]
    if not missing:
        return "1 is even over the classes"
    more = f" and {count(len(missing) - _MOST_NAMED)} more" if len(missing) > _MOST_NAMED else ""
    return f"1 is even over the classes; no sample is taken for {', '.join(missing[:_MOST_NAMED])}{more}"
