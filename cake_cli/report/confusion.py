"""Where the student chooses another class than its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cake_cli.report.canvas import Theme, drawable, dress, new_figure

MOST_CLASSES = 20
MOST_PAIRS = 6


@dataclass(frozen=True)
class Confusion:
    """Counts of (teacher's class, student's class) for some of the K classes."""

    names: tuple[str, ...]
    """M of them, M <= K."""
    counts: NDArray[np.int64]
    """(M, M), rows the teacher's choice."""
    shares: NDArray[np.float64]
    """(M, M), of all samples for which the teacher chooses the row's class."""
    pairs: tuple[tuple[str, str, int], ...]
    """The most frequent disagreements among all K: the teacher's choice, the student's, how often."""
    classes: int
    """K."""
    agreed: int
    samples: int

    @property
    def is_whole(self) -> bool:
        """Whether all classes are shown."""
        return len(self.names) == self.classes


def confusion(matrix: Any, labels: Sequence[str]) -> Confusion | None:
    """The table that is shown: all classes, or the `MOST_CLASSES` that are most confused.

    Args:
        matrix: (K, K) counts, rows the teacher's predictions; None or malformed where there is none.
        labels: K texts.
    """
    try:
        counts = np.asarray(matrix, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        return None
    if counts.shape != (len(labels), len(labels)) or counts.sum() == 0:
        return None
    off = counts - np.diag(np.diag(counts))
    shown = list(range(len(labels)))
    if len(labels) > MOST_CLASSES:
        wrong = off.sum(axis=0) + off.sum(axis=1)
        shown = sorted(np.lexsort((-counts.sum(axis=1), -wrong))[:MOST_CLASSES].tolist())
    totals = counts.sum(axis=1).clip(min=1)
    order = np.argsort(-off, axis=None, kind="stable")[:MOST_PAIRS]
    places = [divmod(int(place), len(labels)) for place in order]
    return Confusion(
        names=tuple(labels[index] for index in shown),
        counts=counts[np.ix_(shown, shown)],
        shares=(counts / totals[:, None])[np.ix_(shown, shown)],
        pairs=tuple((labels[row], labels[column], int(off[row, column])) for row, column in places if off[row, column]),
        classes=len(labels),
        agreed=int(np.trace(counts)),
        samples=int(counts.sum()),
    )


def draw_confusion(
    found: Confusion,
    theme: Theme,
    *,
    title: str = "Student against teacher",
    chosen: str = "the student's choice",
    given: str = "the teacher's choice",
) -> Figure:
    """The table as a picture; colours grow with the root of the share, so that single errors are seen."""
    size = len(found.names)
    side = 2.0 + 0.3 * max(size, 6)
    made = new_figure(side + 0.4, side, theme)
    axes = made.add_subplot()
    dress(axes, theme, title=title, grid=False)
    heat = np.sqrt(found.shares)
    diagonal = np.eye(size, dtype=bool)
    for mask, colour in ((diagonal, theme.agree), (~diagonal, theme.differ)):
        ramp = LinearSegmentedColormap.from_list("ramp", [theme.card, colour])
        axes.imshow(np.ma.masked_array(heat, ~mask), cmap=ramp, vmin=0, vmax=1)
    for row in range(size):
        for column in range(size):
            if found.counts[row, column]:
                colour = theme.card if heat[row, column] > 0.67 else theme.text
                told = str(found.counts[row, column])
                axes.text(column, row, told, ha="center", va="center", fontsize=7, color=colour)
    names = [drawable(name) for name in found.names]
    upright = max(map(len, names)) > 3
    axes.set_xticks(range(size), names, rotation=90 if upright else 0)
    axes.set_yticks(range(size), names)
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        label.set_parse_math(False)
    axes.set(xlabel=chosen, ylabel=given)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return made
