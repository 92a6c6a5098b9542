"""Pictures of behaviour: trajectories, and the shares of the modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from modereg.metrics import PRESENT
from modereg.report.entries import ReportEntry
from modereg.report.paths import Paths
from modereg.report.style import GRID, MUTED, canvas, legible, png, tidy, title
from modereg.tasks import Task
from modereg.tasks.plots import UNDECIDED as FAILED
from modereg.tasks.plots import label_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["draw_shares", "draw_trajectories", "subtitle"]

COLUMNS = 5
"""Panels side by side, at most."""

By = Literal["mode", "code"]
"""What gives a trajectory its colour."""


def subtitle(figures: Mapping[str, Any], num_modes: int | None) -> str:
    """Return a line below a panel's title: success, never without what became of the modes."""
    success, codes = figures.get("success"), figures.get("effective_codes")
    text = f"return {figures['mean_return']:.2f}"
    if success is not None:
        text = f"success {100 * success:.0f}\u00a0%"
    if num_modes is not None and figures.get("present_modes") is not None:
        return f"{text} · {figures['present_modes']} of {num_modes} modes"
    return text if codes is None else f"{text} · {codes:.1f} effective codes"


def _panels(
    count: int, ratio: float, room: tuple[float, float], **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of rows of equally many panels, each so many times as high as wide.

    A legend below them has room: so many inches in width, at least, and in height.
    """
    rows = -(-count // COLUMNS)
    columns = -(-count // rows)
    width = min(2.7 if ratio > 0.8 else 3.6, 10.8 / columns)
    figure = canvas(max(columns * width, room[0]), rows * (width * ratio + 0.6) + room[1])
    return figure, [
        figure.add_subplot(rows, columns, index + 1, **options) for index in range(count)
    ]


# --- trajectories


def draw_trajectories(
    task: Task,
    entries: Sequence[ReportEntry],
    paths: Mapping[str, Paths],
    colors: Mapping[str, str],
    by: By | None = None,
) -> bytes:
    """Draw the episodes of each method in a panel, coloured by mode or by code.

    Failures lie below in light grey. A task with a plot of its own is drawn by it, any other by
    the first two or three dimensions of its features.

    Args:
        task: the task.
        entries: the methods.
        paths: episodes of each, by name.
        colors: of the titles, by name.
        by: what the colours stand for; None takes the mode where there is a label.

    Returns:
        A PNG.
    """
    by = by or ("code" if task.num_modes is None else "mode")
    own = task.plot if task.num_modes is not None else None
    width = next(iter(paths.values())).positions.shape[-1]
    if by == "code" and width != 2:
        own = None  # only in the plane are features known to be what the task's plot shows
    options = {"projection": "3d"} if own is None and width >= 3 else {}
    legend = _legend(task, max(entry.num_codes for entry in entries), by)
    each = 0.6 + 0.07 * max(map(len, legend), default=0)  # inches of a name in the legend
    across = max(1, min(COLUMNS, int(7 / each)))
    room = (across * each, 0.35 * -(-len(legend) // across)) if legend else (0.0, 0.0)
    figure, axes = _panels(len(entries), _ratio(task, paths) if own else 1.0, room, **options)
    for ax, entry in zip(axes, entries, strict=True):
        _draw_panel(ax, task, own, paths[entry.name], colors[entry.name], by)
        ax.set_anchor("S")
        below = subtitle(entry.sampled, task.num_modes)
        if by == "code" and task.num_modes is not None:
            below = f"{entry.num_codes} codes · NMI {entry.sampled['code_mode_nmi']:.2f}"
        title(ax, entry.label, below, colors[entry.name])
        for spine in ax.spines.values():
            spine.set_color(GRID)
    if own is None:
        _share_limits(axes)
    if legend:
        figure.legend(
            list(legend.values()),
            list(legend),
            loc="outside lower center",
            ncols=across,
            frameon=False,
            fontsize=9,
        )
    return png(figure)


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


def _ratio(task: Task, paths: Mapping[str, Paths]) -> float:
    """Return height over width of what the task's own plot shows."""
    ax, some = canvas(1, 1).subplots(), next(iter(paths.values()))
    task.plot(ax, some.positions[:1], torch.full((1,), -1))  # type: ignore[misc]
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    return abs((high - low) / (right - left)) if ax.get_aspect() != "auto" else 1.0


def _draw_panel(ax: Axes, task: Task, own: Any, paths: Paths, single: str, by: By) -> None:
    """Draw failures first, so that they lie below; they count as undecided."""
    labelled = by == "mode" and paths.modes is not None
    labels = (paths.modes if labelled else paths.codes).clone()  # type: ignore[union-attr]
    if paths.success is not None:
        labels[~paths.success] = -1
    order = torch.cat([(labels < 0).nonzero(), (labels >= 0).nonzero()]).squeeze(-1)
    positions, lengths, labels = paths.positions[order], paths.lengths[order], labels[order]
    if own is not None and labelled:
        own(ax, positions, labels, lengths=lengths, limit=len(order))
        return
    count = int(task.num_modes or 1) if labelled else int(paths.codes.max()) + 1
    palette = label_colors(count) if labelled or count > 1 else [single]
    if own is not None:
        own(ax, positions[:1], torch.full((1,), -1))  # for what stands around the trajectories
    _draw_lines(ax, positions, lengths, labels, palette, named=own is None)


def _draw_lines(
    ax: Any,
    positions: Tensor,
    lengths: Tensor,
    labels: Tensor,
    palette: Sequence[str],
    named: bool,
) -> None:
    from matplotlib.collections import LineCollection

    lines = [path[: length + 1].numpy() for path, length in zip(positions, lengths, strict=True)]
    if positions.shape[-1] == 1:
        lines = [np.concatenate([np.arange(len(line))[:, None], line], -1) for line in lines]
    shades = [FAILED if label < 0 else palette[label] for label in labels.tolist()]
    if positions.shape[-1] >= 3:
        for line, color in zip(lines, shades, strict=True):
            ax.plot(*line[:, :3].T, color=color, linewidth=0.6, alpha=0.6)
    else:
        ax.add_collection(LineCollection(lines, colors=shades, linewidths=0.6, alpha=0.6))
        ax.autoscale_view()
    if named:
        _name_axes(ax, positions.shape[-1])


def _name_axes(ax: Any, width: int) -> None:
    names = ["feature 1", "feature 2", "feature 3"]
    if width == 1:
        names = ["environment step", *names]
    ax.set_xlabel(names[0], fontsize=8, color=MUTED)
    ax.set_ylabel(names[1], fontsize=8, color=MUTED)
    if width >= 3:
        ax.set_zlabel(names[2], fontsize=8, color=MUTED, labelpad=-2)
        ax.set_box_aspect(None, zoom=0.76)
    ax.locator_params(nbins=4)
    ax.tick_params(labelsize=7, colors=MUTED)


def _share_limits(axes: Sequence[Axes]) -> None:
    low = np.min([ax.dataLim.min for ax in axes], 0)
    high = np.max([ax.dataLim.max for ax in axes], 0)
    pad = 0.04 * (high - low) + 1e-6
    for ax in axes:
        ax.set_xlim(low[0] - pad[0], high[0] + pad[0])
        ax.set_ylim(low[1] - pad[1], high[1] + pad[1])


# --- shares


def draw_shares(task: Task, entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> bytes:
    """Draw the share of each mode among the successes, a row a method, the base's as an outline.

    The scale is a square root, so that one mode with nearly everything and 24 with 4 % each can
    be read from one picture; the dashed line is where a mode counts as present.

    Returns:
        A PNG.
    """
    number = task.num_modes or 0
    base = next((entry for entry in entries if entry.run_folder is None), None)
    figure = canvas(max(7.0, min(10.8, 2.5 + 0.36 * number)), 0.75 + 1.15 * len(entries))
    axes = figure.subplots(len(entries), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for ax, entry in zip(axes, entries, strict=True):
        shares = np.array(entry.sampled["mode_shares"])
        ax.bar(np.arange(number), shares, 0.72, color=colors[entry.name], zorder=2)
        if base is not None and entry is not base:
            _outline(ax, np.array(base.sampled["mode_shares"]), colors[base.name])
        _mode_axis(ax)
        ax.set_title(
            f"{entry.label}   ",
            loc="left",
            fontsize=9.5,
            fontweight="bold",
            pad=3,
            color=legible(colors[entry.name]),
        )
        ax.set_title(subtitle(entry.sampled, number), loc="right", fontsize=8.5, color=MUTED, pad=3)
    names = task.mode_names or tuple(str(index) for index in range(number))
    long = max(map(len, names)) > 2 and number > 8
    axes[-1].set_xticks(range(number), names, rotation=60 if long else 0, fontsize=7.5)
    largest = max(max(entry.sampled["mode_shares"]) for entry in entries)
    axes[0].set_ylim(0, min(1.0, 1.15 * max(largest, 0.05)))
    figure.supylabel("share of the successful episodes", fontsize=8.5, color=MUTED)
    return png(figure)


def _outline(ax: Axes, shares: np.ndarray, color: str) -> None:
    ax.bar(
        np.arange(len(shares)),
        shares,
        0.9,
        facecolor="none",
        edgecolor=color,
        linewidth=0.9,
        zorder=3,
    )


def _mode_axis(ax: Axes) -> None:
    tidy(ax)
    ax.set_yscale("function", functions=(lambda p: np.sqrt(np.abs(p)), np.square))
    ticks = [0, 0.05, 0.2, 0.5, 1.0]
    ax.set_yticks(ticks, [f"{100 * tick:.0f} %" for tick in ticks], fontsize=7.5)
    ax.axhline(PRESENT, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=4)
    ax.margins(x=0.01)
