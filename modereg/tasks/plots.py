"""Pictures of trajectories; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

__all__ = ["Picture", "draw_lines", "label_colors"]

UNDECIDED = "#d0d3d8"

FEW = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#6b7280")
"""Colours of Okabe and Ito, which colour-blind readers tell apart; yellow darkened, black grey."""


def label_colors(count: int) -> list[str]:
    """Return one colour a mode or code; up to eight are fit for colour-blind readers."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= len(FEW):
        return list(FEW[:count])
    return [to_hex(colormaps["turbo"]((index + 0.5) / count)) for index in range(count)]


@dataclass(frozen=True)
class Picture:
    """Draws what stands in a plane, and episodes in it, coloured by mode; a task's ``plot``.

    Discs are ``(x, y, radius)``, boxes ``(x, y, half width, half height)``.

    Attributes:
        num_modes: number of modes, for the colours.
        xlim: ends of the picture.
        ylim: ends of the picture.
        obstacles: discs and boxes, dark, over the paths.
        places: discs and boxes, light, under the paths.
        goals: discs, as circles.
        lines: heights of lines across the picture, each with matplotlib's style of it.
        dims: which dimensions of an observation are x and y.
    """

    num_modes: int
    xlim: tuple[float, float]
    ylim: tuple[float, float]
    obstacles: Iterable[tuple[float, ...]] = ()
    places: Iterable[tuple[float, ...]] = ()
    goals: Iterable[tuple[float, ...]] = ()
    lines: Iterable[tuple[float, str]] = ()
    dims: tuple[int, int] = (-2, -1)

    def __call__(
        self,
        ax: Axes,
        observations: Tensor,
        modes: Tensor,
        *,
        lengths: Tensor | None = None,
        limit: int = 400,
    ) -> None:
        """Draws episodes.

        Args:
            ax: matplotlib axes.
            observations: ``[N, T, D]``.
            modes: ``[N]`` int64, -1 where undecided.
            lengths: ``[N]`` int64, steps of each episode, one less than its observations; None for
                all.
            limit: draw the first so many episodes only.
        """
        seen = observations[:limit, ..., list(self.dims)].detach().cpu().numpy()
        ends = [len(path) for path in seen] if lengths is None else (lengths[:limit] + 1).tolist()
        draw_lines(ax, seen, ends, modes[:limit].tolist(), label_colors(self.num_modes))
        for shape in self.obstacles:
            ax.add_patch(_patch(shape, color="0.25", zorder=3))
        for shape in self.places:
            ax.add_patch(_patch(shape, color="0.85", zorder=0))
        for shape in self.goals:
            ax.add_patch(_patch(shape, fill=False, color="0.25", zorder=3))
        for height, style in self.lines:
            ax.axhline(height, color="0.4", linestyle=style, linewidth=1)
        ax.set(xlim=self.xlim, ylim=self.ylim, aspect="equal", xticks=[], yticks=[])


def draw_lines(
    ax: Axes, paths: Any, ends: Sequence[int], labels: Sequence[int], palette: Sequence[str]
) -> None:
    """Draw paths ``[N, T, 2]`` up to their ends, coloured by their labels, -1 in light grey."""
    from matplotlib.collections import LineCollection

    colors = [UNDECIDED if label < 0 else palette[label] for label in labels]
    segments = [path[:end] for path, end in zip(paths, ends, strict=True)]
    lines = LineCollection(segments, colors=colors, linewidths=0.7, alpha=0.6)
    ax.add_collection(lines, autolim=False)


def _patch(shape: tuple[float, ...], **style: Any) -> Patch:
    from matplotlib.patches import Circle, Rectangle

    x, y, *size = shape
    if len(size) == 1:
        return Circle((x, y), size[0], **style)
    return Rectangle((x - size[0], y - size[1]), 2 * size[0], 2 * size[1], **style)
