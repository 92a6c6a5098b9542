"""Pictures over environment steps: success beside behaviour, and what the codes reveal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modereg.report.entries import ReportEntry, seed_groups
from modereg.report.style import GRID, MUTED, canvas, png, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["behaviour_figure", "draw_bound", "draw_curves"]

TITLES = {
    "success": "success",
    "mean_return": "mean return",
    "entropy": "behaviour entropy",
    "effective_codes": "effective codes",
    "bound_share": "bound on I(z; episode), share of H(p)",
    "coef": "weight of the intrinsic reward, mean of the codes",
}


def behaviour_figure(entries: Sequence[ReportEntry]) -> str:
    """Return the figure that stands beside success: entropy with a label, else the codes."""
    labelled = any(entry.sampled.get("entropy") is not None for entry in entries)
    return "entropy" if labelled else "effective_codes"


def draw_curves(entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> bytes:
    """Draw success (or return) and behaviour against environment steps, stage 1 counted.

    What stage 1 takes is dotted, from the base to what it gave; the base is a dashed line.

    Returns:
        A PNG.
    """
    judged = any(entry.sampled.get("success") is not None for entry in entries)
    names = ("success" if judged else "mean_return", behaviour_figure(entries))
    figure = canvas(10.8, 3.6)
    axes = figure.subplots(1, 2)
    for ax, name in zip(axes, names, strict=True):
        _draw_series(ax, entries, name, colors)
    _legend(figure, axes[0])
    return png(figure)


def draw_bound(entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> bytes:
    """Draw what q reads off held-out episodes, as a share of H(p), and the weight beside it.

    Both against environment steps. The weight of the intrinsic reward is left out where no run has
    one.

    Returns:
        A PNG.
    """
    priced = [entry for entry in entries if entry.series("coef")]
    figure = canvas(10.8 if priced else 7.0, 3.4)
    axes = figure.subplots(1, 2 if priced else 1, squeeze=False)[0]
    _draw_series(axes[0], entries, "bound_share", colors)
    axes[0].axhline(1, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    if priced:
        _draw_series(axes[1], priced, "coef", colors)
        axes[1].set_ylim(bottom=min(0.0, axes[1].get_ylim()[0]))
    _legend(figure, axes[0])
    return png(figure)


def _draw_series(
    ax: Axes, entries: Sequence[ReportEntry], name: str, colors: Mapping[str, str]
) -> None:
    from matplotlib.ticker import EngFormatter

    base = next((entry for entry in entries if entry.run_folder is None), None)
    start = None if base is None else base.sampled.get(name)
    for runs in seed_groups(entries).values():
        if not _draw_seeds(ax, runs, name, start, colors[runs[0].name]):
            for entry in runs:
                _draw_run(ax, entry, name, start, colors[entry.name])
    if base is not None and start is not None:
        style: Any = {"color": colors[base.name], "linewidth": 1.2, "linestyle": (0, (5, 3))}
        ax.axhline(start, label=base.label, zorder=1, **style)
    _shade(ax, entries)
    ax.set_title(TITLES[name], loc="left", fontsize=10, color=MUTED)
    ax.set_xlabel("environment steps, stage 1 counted", fontsize=8.5, color=MUTED)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(EngFormatter())
    if name not in ("mean_return", "effective_codes", "coef"):
        ax.set_ylim(min(0, ax.get_ylim()[0]), 1.03)
    tidy(ax)


def _draw_seeds(
    ax: Axes, runs: Sequence[ReportEntry], name: str, start: float | None, color: str
) -> bool:
    """Draw the mean over seeds and from the lowest to the highest of them; say if there was any.

    Evaluations of different seeds fall on different environment steps: each run is interpolated
    linearly, over what all runs share.
    """
    if len(runs) < 2 or not all(entry.series(name) for entry in runs):
        return False
    starts = [_draw_start(ax, entry, name, start, color) for entry in runs]
    curves = [
        np.array([*before, *entry.series(name), *_later(entry, name)])
        for before, entry in zip(starts, runs, strict=True)
    ]
    low, high = max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves)
    steps = np.linspace(low, max(low, high), 100)
    values = np.stack([np.interp(steps, curve[:, 0], curve[:, 1]) for curve in curves])
    ax.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.2, linewidth=0)
    label = f"{runs[0].group}, {len(runs)} seeds"
    ax.plot(steps, values.mean(0), color=color, linewidth=1.9, label=label, zorder=3)
    _draw_finals(ax, [found for entry in runs if (found := entry.final(name))], color)
    return True


def _later(entry: ReportEntry, name: str) -> list[tuple[float, float]]:
    """Return the final evaluation of a run, if it came after the last one on the way."""
    final, last = entry.final(name), entry.series(name)[-1][0]
    return [] if final is None or final[0] <= last else [final]


def _draw_finals(ax: Axes, finals: Sequence[tuple[float, float]], color: str) -> None:
    if finals:
        step, mean = np.mean(finals, 0)
        ends = np.array([value for _, value in finals])
        reach = np.abs([[ends.min() - mean], [ends.max() - mean]])
        ax.errorbar([step], [mean], reach, fmt="o", color=color, markersize=5, zorder=4)


def _draw_run(ax: Axes, entry: ReportEntry, name: str, start: float | None, color: str) -> None:
    """Draw a run's evaluations as a line, and its final one, of more episodes, as a point."""
    points, final = entry.series(name), entry.final(name)
    before = _draw_start(ax, entry, name, start, color)
    if points:
        line = [*before, *points, *([] if final is None else [final])]
        _line(ax, line, "-", color=color, linewidth=1.9, label=entry.label, zorder=3)
    if final is not None and entry.run_folder is not None:
        label = None if points else entry.label
        _line(ax, [final], "o", color=color, markersize=5, label=label, zorder=4)


def _draw_start(
    ax: Axes, entry: ReportEntry, name: str, start: float | None, color: str
) -> list[tuple[float, float]]:
    """Draw what stage 1 took and gave; return the point that fine-tuning began at, if known."""
    before = [] if start is None else [(0.0, float(start))]
    stage_one = entry.stage_one
    if stage_one is None or stage_one.figures.get(name) is None:
        return before
    given = (stage_one.env_steps, float(stage_one.figures[name]))
    _line(ax, [*before, given], ":", color=color, linewidth=1.8)
    _line(ax, [given], "o", color=color, markersize=4.5, markerfacecolor="white", zorder=4)
    return [given]


def _line(ax: Axes, points: Sequence[tuple[float, float]], form: str, **options: Any) -> None:
    steps, values = zip(*points, strict=True)
    ax.plot(steps, values, form, **options)


def _shade(ax: Axes, entries: Sequence[ReportEntry]) -> None:
    spent = [entry.stage_one.env_steps for entry in entries if entry.stage_one is not None]
    if spent:
        ax.axvspan(0, max(spent), color=GRID, alpha=0.5, linewidth=0, zorder=0)
        ax.annotate(
            "stage 1",
            (0, 0),
            xytext=(4, 4),
            textcoords="offset points",
            xycoords=ax.get_xaxis_transform(),
            fontsize=7.5,
            color=MUTED,
        )


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside upper center",
            ncols=min(len(labels), 6),
            frameon=False,
            fontsize=9,
        )
