"""The picture of ``mi_truth.py``: how far each estimator is from the truth of each task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from modereg.report.style import GRID, INK, MUTED, canvas, png, tidy

__all__ = ["write_plot"]

PANELS = {
    "Nearest neighbours": ("ksg", "ksg_2", "ross"),
    "Variational": (
        "categorical_exact",
        "categorical",
        "gaussian",
        "von_mises_fisher",
        "contrastive",
    ),
    "Critics": ("dv", "nwj", "mine", "smile", "js", "info_nce"),
}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7b3294", "#4b5563")
MARKERS = "osD^vP"
LIMIT, LINEAR = 1.0, 0.05

Row = dict[str, Any]


def write_plot(path: Path, rows: list[Row]) -> None:
    """Draw the bias of each estimator at its largest number of samples, a panel for each kind."""
    tasks = {row["task"]: row["truth"] for row in sorted(rows, key=_kind)}
    figure = canvas(11.5, 1.6 + 0.3 * len(tasks))
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for ax, (title, names) in zip(axes, PANELS.items()):
        _panel(ax, title, names, rows, list(tasks))
    labels = [f"{task}   {truth:.2f}" for task, truth in tasks.items()]
    axes[0].set_yticks(range(len(tasks)), labels)
    axes[0].set_ylim(len(tasks) - 0.4, -0.6)
    figure.suptitle("Estimate minus truth", x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.supxlabel(
        f"Bias in nats, mean over seeds with 3 standard errors; linear within {LINEAR:g} (shaded), "
        f"logarithmic beyond, marks at the border lie beyond {LIMIT:g}. Beside the tasks: truths.",
        fontsize=8,
        color=MUTED,
    )
    path.write_bytes(png(figure))


def _panel(ax: Axes, title: str, names: tuple[str, ...], rows: list[Row], tasks: list[str]) -> None:
    for index, name in enumerate(names):
        last = _largest([row for row in rows if row["estimator"] == name])
        offset = (index - (len(names) - 1) / 2) * 0.7 / len(names)
        _dots(ax, last, [tasks.index(row["task"]) + offset for row in last], name, index)
    ax.set_xscale("symlog", linthresh=LINEAR, linscale=1.2)
    ax.set_xlim(-LIMIT * 1.15, LIMIT * 1.15)
    ticks = (-1.0, -0.3, -0.05, 0.0, 0.05, 0.3, 1.0)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.axvspan(-LINEAR, LINEAR, color=GRID, alpha=0.45, zorder=0, linewidth=0)
    ax.axvline(0, color=INK, linewidth=0.8, zorder=1)
    tidy(ax, grid=False)
    for place in range(len(tasks) - 1):
        ax.axhline(place + 0.5, color=GRID, linewidth=0.6, zorder=0)
    ax.tick_params(axis="x", labelsize=7)
    ax.set_title(title, fontsize=10, fontweight="bold", loc="left", pad=34)
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=3,
        fontsize=7,
        frameon=False,
        handletextpad=0.1,
        columnspacing=0.8,
        borderaxespad=0.0,
    )


def _dots(ax: Axes, rows: list[Row], places: list[float], name: str, index: int) -> None:
    shown = [min(max(row["bias"], -LIMIT), LIMIT) for row in rows]
    inside = [abs(row["bias"]) < LIMIT for row in rows]
    errors = [3 * row["standard_error"] if fits else 0.0 for row, fits in zip(rows, inside)]
    ax.errorbar(
        shown,
        places,
        xerr=errors,
        fmt=MARKERS[index],
        color=COLORS[index],
        markersize=3.2,
        elinewidth=0.9,
        linestyle="none",
        label=name,
        zorder=3,
    )


def _largest(rows: list[Row]) -> list[Row]:
    """Keep each task's row with the most samples."""
    best: dict[str, Row] = {}
    for row in rows:
        if row["task"] not in best or row["samples"] > best[row["task"]]["samples"]:
            best[row["task"]] = row
    return list(best.values())


def _kind(row: Row) -> tuple[int, float]:
    kinds = ("channel", "gao", "gaussian", "uniform", "lognormal", "student", "sphere")
    kind, _, rest = row["task"].partition("-")
    numbers = rest.replace("x", "-").split("-")
    return kinds.index(kind), float(numbers[0]) + 0.01 * float(numbers[-1])
