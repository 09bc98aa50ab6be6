"""How synthesis and training went, as curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cake_cli.report.canvas import Theme, dress, new_figure
from cake_cli.report.words import figure, number, percent

Lines = Sequence[Mapping[str, Any]]
"""Lines of metrics.jsonl."""

_DASHES = ("-", "--", ":", "-.")
_MARKS = "os^D"


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """One diagram: what it says, apart from how it is drawn."""

    title: str
    x_label: str
    curves: tuple[Curve, ...]
    log_x: bool = False
    """Logarithmic, and falling from left to right, as step sizes do."""
    log_y: bool = False
    shares: bool = False
    """Whether y is a share, shown in per cent."""

    @property
    def description(self) -> str:
        """What a reader learns who does not see it."""
        told = percent if self.shares else figure
        parts = [f"{curve.label} goes from {told(curve.y[0])} to {told(curve.y[-1])}" for curve in self.curves]
        return f"{self.title} against {self.x_label}: " + "; ".join(parts) + "."


def panels(synthesis: Lines, training: Lines, baseline: Lines) -> tuple[Panel, ...]:
    """The diagrams that there are figures for: terms, on-target rate, loss, fidelity."""
    log_x = _falls(number(line.get("step_size")) for line in synthesis)
    x_key, x_label = ("step_size", "step size, falling from set to set") if log_x else ("made", "samples made")
    made = accumulate(number(line.get("samples")) or 0.0 for line in synthesis)
    synthesis = [{**line, "made": so_far} for line, so_far in zip(synthesis, made, strict=True)]
    terms = {"cls": "cross-entropy", "contrastive": "contrastive", "tv": "total variation"}
    rates = {"on_target": "on target", "confidence": "mean confidence"}
    both = {"student": training, "noise baseline": baseline}
    losses = [_curve(name, lines, "epoch", "loss") for name, lines in both.items()]
    drafts = [
        Panel(
            "Terms of the objective",
            x_label,
            _existing(_curve(name, synthesis, x_key, key, positive=True) for key, name in terms.items()),
            log_x=log_x,
            log_y=True,
        ),
        Panel(
            "What the teacher says of the samples",
            x_label,
            _existing(_curve(name, synthesis, x_key, key) for key, name in rates.items()),
            log_x=log_x,
            shares=True,
        ),
        Panel("Training loss", "epoch", _existing(losses)),
        Panel(
            "Agreement on held-out synthetic samples",
            "epoch",
            _existing(_curve(name, lines, "epoch", "agreement") for name, lines in both.items()),
            shares=True,
        ),
    ]
    return tuple(panel for panel in drafts if panel.curves)


def _falls(sizes: Iterable[float | None]) -> bool:
    """Whether step sizes fall from shard to shard, so that they can be an axis; each round has a fall of its own."""
    known = list(sizes)
    falls = all(one is not None and other is not None and one > other > 0 for one, other in pairwise(known))
    return len(known) > 1 and falls


def _curve(label: str, lines: Lines, x_key: str, y_key: str, *, positive: bool = False) -> Curve | None:
    pairs = [(number(line.get(x_key)), number(line.get(y_key))) for line in lines]
    points = [(x, y) for x, y in pairs if x is not None and y is not None and (y > 0 or not positive)]
    if not points:
        return None
    return Curve(label, tuple(x for x, _ in points), tuple(y for _, y in points))


def _existing(curves: Iterable[Curve | None]) -> tuple[Curve, ...]:
    return tuple(curve for curve in curves if curve is not None)


def draw_panel(panel: Panel, theme: Theme) -> Figure:
    """One diagram, at a size that is read on a phone as well."""
    made = new_figure(4.5, 3.0, theme)
    _draw(made.add_subplot(), panel, theme)
    return made


def draw_curves(listed: Sequence[Panel], theme: Theme) -> Figure:
    """All diagrams, two beside each other."""
    rows = (len(listed) + 1) // 2
    made = new_figure(9.2 if len(listed) > 1 else 4.6, 3.1 * rows, theme)
    for position, panel in enumerate(listed):
        _draw(made.add_subplot(rows, min(2, len(listed)), position + 1), panel, theme)
    return made


def _draw(axes: Axes, panel: Panel, theme: Theme) -> None:
    dress(axes, theme, title=panel.title)
    for position, curve in enumerate(panel.curves):
        few = len(curve.x) <= 40
        axes.plot(
            curve.x,
            curve.y,
            color=theme.series[position % len(theme.series)],
            linestyle=_DASHES[position % len(_DASHES)],
            marker=_MARKS[position % len(_MARKS)] if few else None,
            markersize=3.2,
            linewidth=1.8,
            label=curve.label,
        )
    axes.set_xlabel(panel.x_label)
    if panel.log_x:
        axes.set_xscale("log")
        axes.invert_xaxis()
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if panel.log_y:
        axes.set_yscale("log")
    if panel.shares:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if len(panel.curves) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=theme.text, handlelength=2.4)
