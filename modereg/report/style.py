"""Colours and canvases of the report's pictures; nothing here touches matplotlib's defaults."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FAILED",
    "GRID",
    "INK",
    "MUTED",
    "canvas",
    "label_colors",
    "method_colors",
    "png",
    "tidy",
]

INK, MUTED, GRID, FAILED = "#1f2328", "#6b7280", "#e5e7eb", "#d4d7dc"
DPI = 150

KNOWN = {
    "base": "#4b5563",
    "plain": "#d55e00",
    "regularised": "#0072b2",
    "codes_only": "#e69f00",
    "bmd": "#cc79a7",
}
OTHERS = ("#009e73", "#56b4e9", "#8c6d1f", "#7b3294", "#a6761d", "#1b9e77")
# Okabe and Ito's colours, told apart by colour-blind readers; black is left out.
FEW = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#6b7280")


def method_colors(names: Sequence[str]) -> dict[str, str]:
    """Give each method one colour, the same in every picture and every report."""
    others = [name for name in dict.fromkeys(names) if name not in KNOWN]
    extra = {name: OTHERS[index % len(OTHERS)] for index, name in enumerate(others)}
    return {name: KNOWN.get(name) or extra[name] for name in names}


def label_colors(count: int) -> list[str]:
    """Return one colour a mode or code; up to eight are fit for colour-blind readers."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= len(FEW):
        return list(FEW[:count])
    return [to_hex(colormaps["turbo"]((index + 0.5) / count)) for index in range(count)]


def canvas(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, drawn by Agg and unknown to pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
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
    """Render a figure at 150 dots an inch, without the metadata that would make it differ."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
