"""The contact sheet, `samples.png`: pictures by class; for vectors a scatter or a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cake_cli.errors import DataError
from cake_cli.report.canvas import LIGHT, Theme, drawable, dress, new_figure, png
from cake_cli.report.gallery import MOST_PER_CLASS, ClassRow, denormalise, rows_by_class
from cake_cli.report.tiles import pixels, shrink, value_range
from cake_cli.report.words import class_labels
from cake_cli.spec import InputSpec
from cake_cli.storage import write_bytes
from cake_cli.synthesis.samples import Samples

_MARKERS = "os^DvPX*<>"


def sample_sheet(
    samples: Samples, spec: InputSpec, classes: int, class_names: Sequence[str] | None, path: Path
) -> None:
    """Writes a contact sheet: samples by what the teacher takes them for, with its confidence.

    Args:
        samples: at least one; a few of them are shown.
        spec: of their input.
        classes: K.
        class_names: K names, or None.
        path: the PNG file, written whole.

    Raises:
        DataError: if there are no samples.
        EnvironmentFault: if the disk is full or refuses.
    """
    if len(samples) == 0:
        raise DataError("there are no samples to draw")
    write_bytes(path, png(draw_samples(samples, spec, classes, class_names, LIGHT)))


def draw_samples(
    samples: Samples, spec: InputSpec, classes: int, class_names: Sequence[str] | None, theme: Theme
) -> Figure:
    """The contact sheet as a figure; arguments as `sample_sheet`."""
    if spec.shape == (2,):
        return _scatter(samples, spec, class_labels(class_names, classes), theme)
    rows = rows_by_class(samples, spec, classes, class_names)
    return _pictures(rows, spec, theme) if spec.is_image else _heat_map(rows, theme)


def _pictures(rows: tuple[ClassRow, ...], spec: InputSpec, theme: Theme) -> Figure:
    limits = value_range(rows, spec)
    made = new_figure(8.4, 0.35 + 0.98 * len(rows), theme)
    axes = made.add_subplot()
    axes.set(xlim=(-1.9, MOST_PER_CLASS), ylim=(len(rows) * 1.25, -0.1), aspect="equal")
    axes.axis("off")
    for y, row in enumerate(rows):
        top = y * 1.25
        name = drawable(row.name)
        axes.text(-0.2, top + 0.46, name, ha="right", va="center", color=theme.text, fontsize=9.5, parse_math=False)
        for x, shown in enumerate(row.samples):
            picture = np.asarray(shrink(pixels(shown.raw, limits)))
            smooth = "nearest" if max(picture.shape[:2]) <= 64 else "antialiased"
            axes.imshow(picture, extent=(x + 0.04, x + 0.96, top + 0.92, top), interpolation=smooth, aspect="auto")
            told = f"{shown.confidence:.0%}"
            axes.text(x + 0.5, top + 1.06, told, ha="center", va="center", color=theme.muted, fontsize=7.5)
    axes.set(xlim=(-1.9, MOST_PER_CLASS), ylim=(len(rows) * 1.25, -0.1), aspect="equal")
    return made


def _scatter(samples: Samples, spec: InputSpec, names: tuple[str, ...], theme: Theme) -> Figure:
    points = denormalise(samples.inputs.numpy(), spec)  # (N, 2)
    confidences, predicted = (part.numpy() for part in samples.logits.softmax(dim=1).max(dim=1))  # (N,)
    made = new_figure(4.6, 4.2, theme)
    axes = made.add_subplot()
    dress(axes, theme)
    for position, index in enumerate(np.unique(predicted)[: len(_MARKERS)]):
        own = predicted == index
        axes.scatter(
            points[own, 0],
            points[own, 1],
            s=8 + 22 * confidences[own],
            c=theme.series[position % len(theme.series)],
            marker=_MARKERS[position],
            alpha=0.75,
            linewidths=0,
            label=drawable(names[index]).lstrip("_") or str(index),
        )
    axes.set(xlabel="first value", ylabel="second value")
    legend = made.legend(frameon=False, fontsize=9, labelcolor=theme.text, loc="outside upper center", ncols=3)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return made


def _heat_map(rows: tuple[ClassRow, ...], theme: Theme) -> Figure:
    values = np.stack([shown.raw for row in rows for shown in row.samples])  # (M, D)
    reach = float(np.abs(values - np.median(values)).max()) or 1.0
    middle = float(np.median(values))
    made = new_figure(4.6, 1.2 + 0.062 * len(values), theme)
    axes = made.add_subplot()
    dress(axes, theme, grid=False)
    image = axes.imshow(
        values, aspect="auto", cmap="PuOr", vmin=middle - reach, vmax=middle + reach, interpolation="antialiased"
    )
    ends = np.cumsum([len(row.samples) for row in rows])
    axes.set_yticks([end - (len(row.samples) + 1) / 2 for end, row in zip(ends, rows, strict=True)])
    for label in axes.set_yticklabels([drawable(row.name) for row in rows]):
        label.set_parse_math(False)
    for end in ends[:-1]:
        axes.axhline(end - 0.5, color=theme.card, linewidth=2)
    axes.set(xlabel="value of the input", ylabel="")
    bar = made.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.ax.tick_params(colors=theme.muted, labelsize=8, length=0)
    for spine in bar.ax.spines.values():
        spine.set_visible(False)
    return made
