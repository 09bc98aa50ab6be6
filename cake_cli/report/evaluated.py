"""Pictures of an evaluation outside any run: confusions, recall by class, agreement by the teacher's confidence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cake_cli.report.canvas import LIGHT, Theme, drawable, dress, new_figure, png
from cake_cli.report.confusion import confusion, draw_confusion
from cake_cli.report.words import class_labels, number
from cake_cli.storage import write_bytes

MOST_CLASSES = 30
LONGEST = 40
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def write_pictures(folder: Path, models: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Draws what was measured of models.

    Args:
        folder: exists.
        models: the fields of each model's evaluation, by its name, the teacher first if there is one; with the
            (K, K) tables ``confusion`` and, where there was a teacher, ``student_vs_teacher``.

    Returns:
        The files: ``confusion-MODEL.png`` and, against a teacher, ``against-teacher-MODEL.png`` for each model,
        ``recall.png`` and ``agreement.png`` for all together.

    Raises:
        EnvironmentFault: if the disk is full or refuses.
    """
    made: dict[str, Figure] = {}
    stems = _stems(models)
    for name, fields in models.items():
        labels = _labels(fields)
        right = confusion(fields.get("confusion"), labels)
        if right is not None:
            made[f"confusion-{stems[name]}"] = draw_confusion(
                right, LIGHT, title=_short(name), chosen="the model's choice", given="the label"
            )
        against = confusion(fields.get("student_vs_teacher"), labels)
        if against is not None:
            made[f"against-teacher-{stems[name]}"] = draw_confusion(
                against, LIGHT, title=_short(name), chosen="the model's choice"
            )
    recalls = {name: [number(entry["recall"]) for entry in fields["per_class"]] for name, fields in models.items()}
    made["recall"] = draw_recall(recalls, _labels(next(iter(models.values()))), LIGHT)
    bins = {name: fields["agreement_by_confidence"] for name, fields in models.items()}
    known = {name: found for name, found in bins.items() if found is not None}
    if known:
        made["agreement"] = draw_agreement(known, LIGHT)
    for stem, figure in made.items():
        write_bytes(folder / f"{stem}.png", png(figure))
    return [folder / f"{stem}.png" for stem in made]


def _labels(fields: Mapping[str, Any]) -> tuple[str, ...]:
    names = [entry["name"] for entry in fields["per_class"]]
    return class_labels(names if all(names) else None, len(names))


def _short(name: str) -> str:
    """A path as a legend can hold it: its end, which tells files apart."""
    return drawable(name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}", LONGEST)


def _stems(models: Mapping[str, Any]) -> dict[str, str]:
    """A name for files of each model, all different."""
    stems: dict[str, str] = {}
    for name in models:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[-100:] or "model"
        number_ = 1
        while (stem := plain if number_ == 1 else f"{plain}-{number_}") in stems.values():
            number_ += 1
        stems[name] = stem
    return stems


def draw_recall(recalls: Mapping[str, Sequence[float | None]], labels: Sequence[str], theme: Theme) -> Figure:
    """Recall of each class, one mark a model; of more than `MOST_CLASSES`, those where a model is worst."""

    def worst(index: int) -> float:
        return min((value for found in recalls.values() if (value := found[index]) is not None), default=2.0)

    shown = sorted(sorted(range(len(labels)), key=worst)[:MOST_CLASSES])
    made = new_figure(6.4, 1.4 + 0.24 * len(shown), theme)
    axes = made.add_subplot()
    few = len(shown) < len(labels)
    dress(axes, theme, title=f"Recall of the {len(shown)} worst classes" if few else "Recall by class")
    for position, (name, found) in enumerate(recalls.items()):
        points = [(value, row) for row, index in enumerate(shown) if (value := found[index]) is not None]
        axes.plot(
            [value for value, _ in points],
            [row for _, row in points],
            linestyle="none",
            marker=_MARKS[position % len(_MARKS)],
            markersize=5,
            color=theme.series[position % len(theme.series)],
            label=_short(name),
        )
    axes.set_yticks(range(len(shown)), [drawable(labels[index]) for index in shown])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(right=1.02)
    _legend(made, theme)
    return made


def draw_agreement(bins: Mapping[str, Sequence[Mapping[str, Any]]], theme: Theme) -> Figure:
    """Agreement with the teacher where it is more or less sure, one line a model."""
    first = next(iter(bins.values()))
    kept = [index for index, entry in enumerate(first) if entry["samples"]]
    made = new_figure(5.6, 3.4, theme)
    axes = made.add_subplot()
    dress(axes, theme, title="Agreement by the teacher's confidence")
    for position, (name, found) in enumerate(bins.items()):
        axes.plot(
            range(len(kept)),
            [found[index]["agreement"] for index in kept],
            marker=_MARKS[position % len(_MARKS)],
            markersize=4,
            color=theme.series[position % len(theme.series)],
            label=_short(name),
        )
    told = [f"{first[i]['low']:.0%}–{first[i]['high']:.0%}\n{first[i]['samples']:,}" for i in kept]
    axes.set_xticks(range(len(kept)), told)
    axes.set_xlabel("confidence, and how many samples")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend(made, theme)
    return made


def _legend(made: Figure, theme: Theme) -> None:
    legend = made.legend(loc="outside lower left", frameon=False, fontsize=8, labelcolor=theme.text)
    for text in legend.get_texts():
        text.set_parse_math(False)
