"""Figures without global state: colours of the light and the dark page, and PNG bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

RESOLUTION = 200
"""Dots an inch: sharp on a screen with two device pixels to one of CSS."""


@dataclass(frozen=True)
class Theme:
    """Colours of one appearance of the page; those of the template are the same."""

    text: str
    muted: str
    grid: str
    card: str
    series: tuple[str, ...]
    """After Okabe and Ito, told apart with any colour vision; the student's is the first, the baseline's the second."""
    agree: str
    """Where student and teacher choose the same."""
    differ: str
    """Where they do not."""


LIGHT = Theme(
    text="#1d2127",
    muted="#5a626d",
    grid="#e3e6ea",
    card="#ffffff",
    series=("#0067a3", "#c24e00", "#00795a", "#a3427d", "#8a6d00", "#2f9fd8", "#6b7280", "#1d2127"),
    agree="#0067a3",
    differ="#c24e00",
)
DARK = Theme(
    text="#e7e9ec",
    muted="#a3abb6",
    grid="#343a44",
    card="#1c2027",
    series=("#62b8ee", "#f0a048", "#3fc79c", "#e08fc0", "#e8d85a", "#8fd0ff", "#9aa3af", "#e7e9ec"),
    agree="#62b8ee",
    differ="#f0a048",
)


def new_figure(width: float, height: float, theme: Theme) -> Figure:
    """An empty figure, in inches, on the colour of a card."""
    made = Figure(figsize=(width, height), dpi=RESOLUTION, facecolor=theme.card, layout="constrained")
    FigureCanvasAgg(made)
    return made


def dress(axes: Axes, theme: Theme, *, title: str = "", grid: bool = True) -> None:
    """Gives axes the look of the page: no box, a light grid, a title at the left."""
    axes.set_facecolor(theme.card)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    axes.tick_params(which="both", colors=theme.muted, labelsize=9, length=0, pad=5)
    axes.xaxis.label.set(color=theme.muted, fontsize=9)
    axes.yaxis.label.set(color=theme.muted, fontsize=9)
    if grid:
        axes.grid(visible=True, color=theme.grid, linewidth=0.8)
        axes.set_axisbelow(True)
    if title:
        told = axes.set_title(title, loc="left", color=theme.text, fontsize=10.5, fontweight="bold", pad=10)
        told.set_parse_math(False)


def png(made: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", facecolor=made.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def data_uri(content: bytes) -> str:
    """A PNG file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


@dataclass(frozen=True)
class Picture:
    """A figure in both appearances of the page, as data: addresses."""

    light: str
    dark: str
    alt: str
    """What a reader learns who does not see it."""


def picture(draw: Callable[[Theme], Figure], alt: str) -> Picture:
    """Draws a figure in both appearances."""
    return Picture(data_uri(png(draw(LIGHT))), data_uri(png(draw(DARK))), alt)


@cache
def _glyphs() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap())


def drawable(name: str, longest: int = 18) -> str:
    """A name as the figures can draw it: one line, cut, and ``?`` for signs that the font lacks."""
    known = "".join(sign if ord(sign) in _glyphs() and sign.isprintable() else "?" for sign in name)
    return known if len(known) <= longest else known[: longest - 1] + "…"
