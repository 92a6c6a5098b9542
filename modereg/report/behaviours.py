"""Pictures of behaviours: the share of each mode, what each code does, and what it commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modereg.metrics import PRESENT, success_table
from modereg.report import numbers
from modereg.report.entries import ReportEntry
from modereg.report.style import GRID, INK, MUTED, canvas, legible, png, tidy, title
from modereg.report.trajectories import subtitle
from modereg.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_codes", "draw_shares", "draw_tables", "sorted_table"]

LISTED = 36
"""Codes, at most, whose numbers stand beside a table."""


def draw_codes(entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> bytes:
    """Draw share and success (or return) of each code, a row a method, where modes have no label.

    Methods with a single code have no row; the base's figure is a dashed line.

    Returns:
        A PNG.
    """
    coded = [entry for entry in entries if entry.num_codes > 1]
    base = next((entry for entry in entries if entry.run_folder is None), None)
    figure = canvas(10.8, 0.3 + 1.7 * len(coded))
    axes = figure.subplots(len(coded), 2, squeeze=False)
    for (left, right), entry in zip(axes, coded, strict=True):
        _draw_code_shares(left, entry, colors[entry.name])
        _draw_code_results(right, entry, base, colors)
    for ax in axes[-1]:
        ax.set_xlabel("code", fontsize=8, color=MUTED)
    return png(figure)


def _draw_code_shares(ax: Axes, entry: ReportEntry, color: str) -> None:
    shares = entry.sampled["code_shares"]
    ax.bar(range(len(shares)), shares, 0.72, color=color)
    ax.set_title(entry.label, loc="left", fontsize=9.5, fontweight="bold", color=legible(color))
    ax.set_ylabel("share of episodes", fontsize=8, color=MUTED)
    _code_axis(ax, len(shares))


def _draw_code_results(
    ax: Axes, entry: ReportEntry, base: ReportEntry | None, colors: Mapping[str, str]
) -> None:
    """Points instead of bars: a return has no natural zero."""
    known = entry.sampled.get("per_code_success")
    name = "mean_return" if known is None else "success"
    values = entry.sampled["per_code_return"] if known is None else known
    heights = [np.nan if value is None else value for value in values]
    ax.plot(heights, "o", color=colors[entry.name], markersize=5.5, zorder=3, clip_on=False)
    if base is not None:
        style: Any = {"color": colors[base.name], "linewidth": 1.2, "linestyle": (0, (5, 3))}
        ax.axhline(base.sampled[name], **style)
        said = f"dashed: {base.label}"
        ax.set_title(said, loc="right", fontsize=8.5, color=legible(colors[base.name]))
    ax.set_ylabel("return" if known is None else "success", fontsize=8, color=MUTED)
    if known is not None:
        ax.set_ylim(0, 1.02)
    _code_axis(ax, len(heights))


def _code_axis(ax: Axes, number: int) -> None:
    tidy(ax)
    ax.set_xlim(-0.6, max(number, 6) - 0.4)
    ax.set_xticks(range(0, number, -(-number // 16)))


def draw_tables(task: Task, entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> bytes:
    """Draw P(success and mode | code) of each method with codes, sorted so that it reads diagonal.

    Returns:
        A PNG.
    """
    number = task.num_modes or 0
    codes = max([12, *(entry.num_codes for entry in entries)])
    width, height = 1.0 + 0.105 * max(number, 20), 1.3 + (0.12 if codes <= LISTED else 0.07) * codes
    rows = -(-len(entries) // int(10.8 / width))
    columns = -(-len(entries) // rows)
    figure = canvas(width * columns + 0.7, height * rows)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(len(entries))]
    for ax, entry in zip(axes, entries, strict=True):
        table, order = sorted_table(entry.sampled)
        image = ax.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        nmi = f"NMI {numbers.number(entry.sampled['code_mode_nmi'], '.2f')}"
        commanded = f"{entry.sampled['commandable_modes']} of {number} modes commandable"
        title(ax, entry.label, f"{nmi} · {commanded}", colors[entry.name])
        _table_axes(ax, task, [entry.code_names[code] for code in order])
    bar = figure.colorbar(image, ax=axes, shrink=0.6 / rows, pad=0.02, aspect=24)
    bar.set_label("P(success in the mode | code)", fontsize=8, color=MUTED)
    bar.ax.tick_params(length=0, labelsize=7.5, colors=MUTED)
    bar.outline.set_visible(False)
    return png(figure)


def sorted_table(figures: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the table ``[K, M]`` of probabilities given the code, and the order of its codes."""
    table = success_table(figures).numpy()
    order = np.lexsort((-table.max(1), table.argmax(1)))
    return table[order], order


def _table_axes(ax: Axes, task: Task, codes: Sequence[str]) -> None:
    number, num_codes = task.num_modes or 0, len(codes)
    names = task.mode_names or tuple(map(str, range(number)))
    upright = number > 8 or max(map(len, names)) * number > 30
    ax.set_xticks(range(number), names, rotation=90 if upright else 0, fontsize=6.5)
    listed = range(num_codes if num_codes <= LISTED else 0)
    ax.set_yticks(listed, [codes[row] for row in listed], fontsize=6.5)
    ax.set_xlabel("mode", fontsize=8, color=INK)
    ax.set_ylabel("code", fontsize=8, color=INK)
    ax.tick_params(length=0, colors=MUTED)
    ax.set_xticks(np.arange(number + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(num_codes + 1) - 0.5, minor=True)
    ax.grid(which="minor", color=GRID, linewidth=0.4)
    ax.tick_params(which="minor", length=0)
    for spine in ax.spines.values():
        spine.set_color(GRID)


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
