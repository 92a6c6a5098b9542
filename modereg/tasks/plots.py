"""Pictures of trajectories; matplotlib is imported when one is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from modereg.tasks.avoid_geometry import CYLINDERS, GOAL_Y, NUM_MODES
from modereg.tasks.mixture_geometry import GOAL_RADIUS, GOALS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["label_colors", "plot_avoid", "plot_gaussian_mixture", "plot_trajectories"]

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


def plot_trajectories(
    ax: Axes,
    observations: Tensor,
    modes: Tensor,
    *,
    num_modes: int,
    lengths: Tensor | None = None,
    limit: int = 400,
    linewidth: float = 0.7,
    alpha: float = 0.6,
) -> None:
    """Draws the current positions of episodes, one colour a mode, grey where it is undecided.

    Args:
        ax: matplotlib axes.
        observations: ``[N, T, D]``, whose last two dimensions are x and y.
        modes: ``[N]`` int64, -1 where undecided.
        num_modes: number of modes, for the colours.
        lengths: ``[N]`` int64, steps of each episode, one less than its observations; None for all.
        limit: draw the first so many episodes only.
        linewidth: in points.
        alpha: opacity.
    """
    from matplotlib.collections import LineCollection

    paths = observations[:limit, :, -2:].detach().cpu().numpy()
    ends = [len(path) for path in paths] if lengths is None else (lengths[:limit] + 1).tolist()
    palette = label_colors(num_modes)
    colors = [UNDECIDED if mode < 0 else palette[mode] for mode in modes[:limit].tolist()]
    segments = [path[:end] for path, end in zip(paths, ends, strict=True)]
    ax.add_collection(LineCollection(segments, colors=colors, linewidths=linewidth, alpha=alpha))


def plot_avoid(
    ax: Axes,
    observations: Tensor,
    modes: Tensor,
    *,
    lengths: Tensor | None = None,
    limit: int = 400,
) -> None:
    """Draws Avoid's cylinders and goal line, and trajectories coloured by mode.

    Args:
        ax: matplotlib axes.
        observations: ``[N, T, 4]`` or ``[N, T, 2]``.
        modes: ``[N]`` int64.
        lengths: ``[N]`` int64, steps of each episode, one less than its observations; None for all.
        limit: draw the first so many episodes only.
    """
    from matplotlib.patches import Circle

    plot_trajectories(ax, observations, modes, num_modes=NUM_MODES, lengths=lengths, limit=limit)
    for x, y, radius in CYLINDERS:
        ax.add_patch(Circle((x, y), radius, color="0.25", zorder=3))
    ax.axhline(GOAL_Y, color="0.4", linestyle="--", linewidth=1)
    ax.set(xlim=(0.2, 0.8), ylim=(-0.31, 0.38), aspect="equal", xticks=[], yticks=[])


def plot_gaussian_mixture(
    ax: Axes,
    observations: Tensor,
    modes: Tensor,
    *,
    lengths: Tensor | None = None,
    limit: int = 400,
) -> None:
    """Draws the four goals of the Gaussian mixture, and trajectories coloured by mode.

    Args:
        ax: matplotlib axes.
        observations: ``[N, T, 2]``.
        modes: ``[N]`` int64.
        lengths: ``[N]`` int64, steps of each episode, one less than its observations; None for all.
        limit: draw the first so many episodes only.
    """
    from matplotlib.patches import Circle

    plot_trajectories(ax, observations, modes, num_modes=len(GOALS), lengths=lengths, limit=limit)
    for goal in GOALS:
        ax.add_patch(Circle(goal, GOAL_RADIUS, fill=False, color="0.25", zorder=3))
    ax.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", xticks=[], yticks=[])
