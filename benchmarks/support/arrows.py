"""The picture of ``finetuners.py``: success against behaviours, an arrow from the base to each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modereg.report.style import MUTED, canvas, method_colors, png, tidy

__all__ = ["write_arrows"]

MARKERS = {
    "ppo": "o", "sac": "s", "dsrl": "D", "residual": "^", "resip": "<", "resfit": ">", "dppo": "P",
    "qf3": "X",
}  # fmt: skip
OTHER = "v"
SHOWN = {"modereg": "regularised"}
"""Methods that other pictures know by another name, and its colour."""

Row = dict[str, Any]


def write_arrows(path: Path, rows: list[Row]) -> None:
    """Draw success against behaviour entropy, an arrow from the base of its seed to each result.

    Args:
        path: of the PNG.
        rows: with method, learner, seed, success and entropy; those of the method ``base`` begin.
    """
    bases = {row["seed"]: row for row in rows if row["method"] == "base"}
    names = list(dict.fromkeys(SHOWN.get(row["method"], row["method"]) for row in rows))
    colors, labelled = method_colors(names), set[str]()
    figure = canvas(7.6, 4.6)
    ax = figure.subplots()
    for row in rows:
        place = row["entropy"], row["success"]
        color = colors[SHOWN.get(row["method"], row["method"])]
        name = row["method"] if row["learner"] in (None, row["method"]) else (
            f"{row['method']} ({row['learner']})"
        )  # fmt: skip
        if row["method"] != "base":
            base = bases[row["seed"]]
            arrow = {"arrowstyle": "-|>", "color": color, "alpha": 0.6, "linewidth": 1.1}
            ax.annotate("", place, (base["entropy"], base["success"]), arrowprops=arrow)
        style = {"marker": MARKERS.get(row["learner"], OTHER), "s": 34, "zorder": 3}
        ax.scatter(*place, color=color, label=None if name in labelled else name, **style)
        labelled.add(name)
    ax.set_xlim(-0.03, 1.03)
    ax.set_ylim(min(0.5, *(row["success"] - 0.03 for row in rows)), 1.02)
    ax.set_xlabel("behaviour entropy of successes, over log M", fontsize=8.5, color=MUTED)
    ax.set_ylabel("success", fontsize=8.5, color=MUTED)
    tidy(ax)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(figure))
