"""The picture of the modes' shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modereg.metrics import PRESENT
from modereg.report.entries import ReportEntry
from modereg.report.style import MUTED, canvas, legible, png, tidy
from modereg.report.trajectories import subtitle
from modereg.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_shares"]


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
