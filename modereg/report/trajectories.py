"""Pictures of trajectories: a panel a method, coloured by mode or by code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from modereg.paths import Paths
from modereg.report.entries import ReportEntry
from modereg.report.numbers import number, percent
from modereg.report.projections import View, project, views_of
from modereg.report.style import GRID, MUTED, canvas, png, tidy, title
from modereg.tasks import Task
from modereg.tasks.plots import UNDECIDED as FAILED
from modereg.tasks.plots import draw_lines, label_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["By", "Scene", "draw_thumbnail", "draw_trajectories", "make_scene", "subtitle"]

COLUMNS = 5
"""Panels side by side, at most."""

By = Literal["mode", "code"]
"""What gives a trajectory its colour."""


def subtitle(figures: Mapping[str, Any], num_modes: int | None) -> str:
    """Return a line below a panel's title: success, never without what became of the modes."""
    success, codes = figures.get("success"), figures.get("effective_codes")
    text = f"return {number(figures['mean_return'], '.2f')}"
    if success is not None:
        text = f"success {percent(success)}"
    if num_modes is not None and figures.get("present_modes") is not None:
        return f"{text} · {figures['present_modes']} of {num_modes} modes"
    return text if codes is None else f"{text} · {codes:.1f} effective codes"


@dataclass(frozen=True)
class Scene:
    """What all panels of one picture share.

    Attributes:
        task: the task.
        by: what the colours stand for.
        own: the task's plot, where it knows what it is given; else None.
        views: the planes that are drawn, a row each; one that is not looked at where the task
            draws.
        ranges: left, right, bottom and top of each view.
    """

    task: Task
    by: By
    own: Callable[..., None] | None
    views: tuple[View, ...]
    ranges: tuple[tuple[float, float, float, float], ...]

    def ratio(self, row: int) -> float:
        """Return height over width of the panels of a view."""
        left, right, low, high = self.ranges[row]
        equal = self.own is not None or self.views[row].equal
        return float(np.clip((high - low) / (right - left), 0.4, 1.6)) if equal else 1.0


def make_scene(task: Task, paths: Sequence[Paths], by: By | None = None) -> Scene:
    """Choose what draws the paths: the task's own plot, or projections."""
    by = by or ("code" if task.num_modes is None else "mode")
    width = paths[0].positions.shape[-1]
    own = task.plot if task.num_modes is not None else None
    if by == "code" and width != 2:
        own = None  # only in the plane are features known to be what the task's plot shows
    views = tuple(views_of(task.feature_names, paths))
    if own is None:
        return Scene(task, by, own, views, tuple(_range(view, paths) for view in views))
    ax = canvas(1, 1).subplots()
    own(ax, paths[0].positions[:1], torch.full((1,), -1))
    bounds = (*ax.get_xlim(), *ax.get_ylim()) if ax.get_aspect() != "auto" else (0.0, 1.0) * 2
    left, right, low, high = bounds
    return Scene(task, by, own, views[:1], ((min(left, right), max(left, right), low, high),))


def _range(view: View, paths: Sequence[Paths]) -> tuple[float, float, float, float]:
    """Return what holds all paths with a margin, left, right, bottom and top."""
    places = np.concatenate([project(view, each.positions).reshape(-1, 2) for each in paths])
    low, high = places.min(0), places.max(0)
    pad = 0.05 * (high - low) + 1e-6
    if view.equal:  # no thinner than a third
        pad = np.maximum(pad, ((high - low).max() / 3 - (high - low)) / 2)
    return float(low[0] - pad[0]), float(high[0] + pad[0]), *(low - pad)[1:], *(high + pad)[1:]


def draw_trajectories(
    task: Task,
    entries: Sequence[ReportEntry],
    paths: Mapping[str, Paths],
    colors: Mapping[str, str],
    by: By | None = None,
) -> bytes:
    """Draw the episodes of each method in a panel, coloured by mode or by code.

    Failures lie below in light grey. A task with a plot of its own is drawn by it, any other by
    the dimensions of its features or their projections.

    Returns:
        A PNG.
    """
    scene = make_scene(task, [paths[entry.name] for entry in entries], by)
    legend = _legend(task, max(entry.num_codes for entry in entries), scene.by)
    figure, panels = _panels(scene, len(entries), legend)
    for index, entry in enumerate(entries):
        for row in range(len(scene.views)):
            ax = panels[index, row]
            _draw_panel(ax, scene, row, paths[entry.name], colors[entry.name])
            if row == 0:
                title(ax, entry.label, _below(task, entry, scene.by), colors[entry.name])
            if scene.own is None:
                _label_axes(ax, scene.views[row], first=index % COLUMNS == 0)
    _add_legend(figure, legend)
    return png(figure)


def draw_thumbnail(scene: Scene, paths: Paths, color: str) -> bytes:
    """Draw one method's episodes alone, without a word: a small PNG."""
    width = 2.3
    figure = canvas(width, width * min(scene.ratio(0), 1.25))
    figure.set_layout_engine("none")
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    _draw_panel(ax, scene, 0, paths, color)
    ax.set_axis_off()
    return png(figure)


def _below(task: Task, entry: ReportEntry, by: By) -> str:
    if by == "code" and task.num_modes is not None:
        return f"{entry.num_codes} codes · NMI {number(entry.sampled['code_mode_nmi'], '.2f')}"
    return subtitle(entry.sampled, task.num_modes)


def _panels(
    scene: Scene, count: int, legend: Mapping[str, Line2D]
) -> tuple[Figure, dict[tuple[int, int], Axes]]:
    """Return a figure and its panels by method and view: rows of methods, each a row a view."""
    blocks = -(-count // COLUMNS)
    columns, views = -(-count // blocks), len(scene.views)
    ratios = [scene.ratio(row) for row in range(views)]
    width = min(2.7 if max(ratios) > 0.8 else 3.6, 10.8 / columns)
    heights = [width * ratio + (0.6 if row == 0 else 0.35) for row, ratio in enumerate(ratios)]
    across, each = _legend_columns(legend)
    room = 0.35 * -(-len(legend) // across) if legend else 0.0
    figure = canvas(
        max(columns * width, across * each if legend else 0.0), blocks * sum(heights) + room
    )
    grid = figure.add_gridspec(blocks * views, columns, height_ratios=heights * blocks)
    return figure, {
        (index, row): figure.add_subplot(grid[index // columns * views + row, index % columns])
        for index in range(count)
        for row in range(views)
    }


def _legend_columns(legend: Mapping[str, Line2D]) -> tuple[int, float]:
    """Return how many names stand side by side, and the inches of one."""
    each = 0.6 + 0.07 * max(map(len, legend), default=0)
    return max(1, min(COLUMNS, int(7 / each))), each


def _add_legend(figure: Figure, legend: Mapping[str, Line2D]) -> None:
    if legend:
        figure.legend(
            list(legend.values()),
            list(legend),
            loc="outside lower center",
            ncols=_legend_columns(legend)[0],
            frameon=False,
            fontsize=9,
        )


def _legend(task: Task, codes: int, by: By) -> dict[str, Line2D]:
    """Name the modes or codes, where they are few enough to be told apart by colour."""
    from matplotlib.lines import Line2D

    names = list(task.mode_names or ()) if by == "mode" else [f"code {z}" for z in range(codes)]
    if not 0 < len(names) <= 8 or (by == "code" and codes == 1):
        return {}
    palette = [*label_colors(len(names)), FAILED]
    return {
        name: Line2D([], [], color=color, linewidth=2)
        for name, color in zip([*names, "failed"], palette, strict=True)
    }


def _draw_panel(ax: Axes, scene: Scene, row: int, paths: Paths, single: str) -> None:
    """Draw failures first, so that they lie below; they count as undecided."""
    labelled = scene.by == "mode" and paths.modes is not None
    labels = (paths.modes if labelled else paths.codes).clone()  # type: ignore[union-attr]
    if paths.success is not None:
        labels[~paths.success] = -1
    order = torch.cat([(labels < 0).nonzero(), (labels >= 0).nonzero()]).squeeze(-1)
    positions, lengths, labels = paths.positions[order], paths.lengths[order], labels[order]
    for spine in ax.spines.values():
        spine.set_color(GRID)
    ax.set_anchor("S")
    if scene.own is not None and labelled:
        scene.own(ax, positions, labels, lengths=lengths, limit=len(order))
        return
    count = int(scene.task.num_modes or 1) if labelled else int(paths.codes.max()) + 1
    palette = label_colors(count) if labelled or count > 1 else [single]
    if scene.own is not None:
        scene.own(ax, positions[:1], torch.full((1,), -1))  # for what stands around the paths
    places = project(scene.views[row], positions)
    draw_lines(ax, places, (lengths + 1).tolist(), labels.tolist(), palette)
    if scene.own is None:
        ax.axis(scene.ranges[row])
        ax.set_aspect("equal" if scene.views[row].equal else "auto")


def _label_axes(ax: Axes, view: View, *, first: bool) -> None:
    """Label the axes of a projection; the upright one at the first panel of a row alone."""
    tidy(ax, grid=False)
    ax.set_xlabel(view.labels[0], fontsize=8, color=MUTED)
    if first:
        above = f"{view.name}\n{view.labels[1]}" if view.name else view.labels[1]
        ax.set_ylabel(above, fontsize=8, color=MUTED)
    ax.locator_params(nbins=4)
    ax.tick_params(labelsize=7.5, labelleft=first)
