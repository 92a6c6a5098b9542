"""The table of stage 1: each method and start over seeds."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from modereg.files import write_json
from modereg.report.numbers import over_runs

__all__ = ["write_stage1"]

HEAD = (
    "method",
    "start",
    "codes",
    "success",
    "entropy",
    "purity",
    "present",
    "commandable",
    "bound, nats",
    "steps",
    "CPU seconds",
)

LAST = ("dual", "too_long")
"""What is kept of the last iteration: METRA's and LSD's dual variable and share of violations."""


def write_stage1(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows as JSON and, with the suffix ``.md``, a table for each task beside it."""
    write_json(path, {"rows": [_kept(row) for row in rows]})
    lines = [
        "# Stage 1 by each estimator",
        "",
        f"    python {' '.join(sys.argv)}",
        "",
        "Means over seeds with each seed's in round brackets, or, from five seeds on, the 95 %"
        " interval of the mean by Student's t in square ones; modes and codes as each seed has"
        " them. Sampled noise; the script says what is what.",
    ]
    for task in dict.fromkeys(row["task"] for row in rows):
        lines += ["", f"## {task}", "", _line(HEAD), "|" + "---|" * len(HEAD)]
        groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            if row["task"] == task:
                groups[row["method"], row["start"]].append(row)
        lines += [_line(_cells(*key, group)) for key, group in groups.items()]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out the last iteration's figures but those of a constraint, where there is one."""
    kept = {name: value for name, value in row.items() if name != "training"}
    training = row.get("training", {})
    kept |= {name: training[f"q_{name}"] for name in LAST if f"q_{name}" in training}
    return {name: round(v, 4) if isinstance(v, float) else v for name, v in kept.items()}


def _cells(method: str, start: str, group: list[dict[str, Any]]) -> list[str]:
    names = ("success", "entropy", "purity")
    intervals = [over_runs([row[name] for row in group]) for name in names]
    modes = [_each(group, name) for name in ("present_modes", "commandable_modes")]
    bound = "-" if group[0]["bound"] is None else f"{_mean(group, 'bound'):.2f}"
    spent = [f"{_mean(group, 'env_steps'):,.0f}", f"{_mean(group, 'seconds'):.0f}"]
    return [method, start, _each(group, "codes"), *intervals, *modes, bound, *spent]


def _each(group: list[dict[str, Any]], name: str) -> str:
    values = [str(row[name]) for row in group]
    return values[0] if len(set(values)) == 1 and len(values[0]) > 2 else ", ".join(values)


def _mean(group: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in group]))


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"
