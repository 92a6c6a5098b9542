"""Colours and canvases of the report's pictures; nothing here touches matplotlib's defaults."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from modereg.lazy import optional

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "GRID",
    "INK",
    "MUTED",
    "canvas",
    "legible",
    "method_colors",
    "png",
    "tidy",
    "title",
]

INK, MUTED, GRID = "#1f2328", "#6b7280", "#e5e7eb"
DPI = 150

KNOWN = {
    "base": "#4b5563",
    "plain": "#d55e00",
    "regularised": "#0072b2",
    "codes_only": "#e69f00",
    "bmd": "#cc79a7",
}
OTHERS = ("#009e73", "#56b4e9", "#8c6d1f", "#7b3294", "#a6761d", "#1b9e77")


def method_colors(names: Sequence[str]) -> dict[str, str]:
    """Give each method one colour, the same in every picture and every report.

    A variant of a known method (``regularised_wide``) has a darker tone of its colour, and a run in
    a folder of its name (``regularised/s0``) the colour itself, if it is alone in that.
    """
    found: dict[str, str] = {}
    free = iter(OTHERS * len(names))
    for name in dict.fromkeys(names):
        known = _known_color(name, names)
        found[name] = next(free) if known is None or known in found.values() else known
    return found


def _known_color(name: str, names: Sequence[str]) -> str | None:
    """Return the colour of the known method that a name is, begins with, or lies below."""
    folder = name.split("/")[0]
    if folder in KNOWN and (name == folder or folder not in names):
        return KNOWN[folder]
    family = next((known for known in KNOWN if name.startswith((f"{known}_", f"{known}/"))), None)
    return None if family is None else _darker(KNOWN[family], 0.55)


def legible(color: str) -> str:
    """Return the colour, darkened where text in it would be hard to read on white."""
    red, green, blue = _channels(color)
    return _darker(color, 0.72) if 0.3 * red + 0.59 * green + 0.11 * blue > 130 else color


def _darker(color: str, share: float) -> str:
    return "#" + "".join(f"{round(share * value):02x}" for value in _channels(color))


def _channels(color: str) -> list[int]:
    return [int(color[start : start + 2], 16) for start in (1, 3, 5)]


def canvas(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, drawn by Agg and unknown to pyplot.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    library = optional("matplotlib.figure", "A picture", "modereg[report]")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    size = (width, height)
    figure: Figure = library.Figure(size, dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(ax: Axes, *, grid: bool = True) -> None:
    """Take away what does not inform: frame, ticks; leave a quiet grid."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GRID)
    ax.tick_params(length=0, labelsize=8, colors=MUTED)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(True, axis="y", color=GRID, linewidth=0.8)


def png(figure: Figure) -> bytes:
    """Render a figure at 150 dots an inch in 256 colours, a third of the bytes of all of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    agg, buffer = FigureCanvasAgg(figure), io.BytesIO()
    agg.draw()
    whole = Image.fromarray(np.asarray(agg.buffer_rgba())).convert("RGB")
    reduced = whole.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    reduced.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def title(ax: Axes, label: str, below: str, color: str) -> None:
    """Write a title and a line below it; axes in three dimensions have room within."""
    low = 8 if ax.name != "3d" else -10
    ax.set_title(label, fontsize=10.5, fontweight="bold", color=legible(color), pad=low + 14)
    ax.annotate(
        below,
        (0.5, 1),
        xytext=(0, low),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=MUTED,
        annotation_clip=False,
    )
