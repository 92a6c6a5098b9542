"""Tables of methods over seeds."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from modereg.report.numbers import over_runs

__all__ = ["write_seeds_table"]

HEAD = (
    "| method | pay +- | success | entropy | present | commandable | success, mean noise | present,"
    " mean noise | steps | seconds |"
)


def write_seeds_table(path: Path, title: str, rows: list[dict[str, Any]]) -> None:
    """Write means over seeds, and each seed or an interval, beside a JSON file.

    Args:
        path: the JSON file; the table gets the suffix ``.md``.
        title: of the page.
        rows: with method, pay_spread, seed and figures.
    """
    groups: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["method"], row["pay_spread"]].append(row)
    lines = [
        f"# {title}",
        "",
        f"    python {' '.join(sys.argv)}",
        "",
        "Means over seeds; success and entropy with each seed's in round brackets, or, from five"
        " seeds on, the 95 % interval of the mean by Student's t in square ones; modes as each seed"
        " has them. Sampled noise, and by the mean noise where the column says so.",
        "",
        HEAD,
        "|" + "---|" * 10,
    ]
    for key in sorted(groups, key=lambda item: (item[1], item[0])):
        lines.append(_line(*key, groups[key]))
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _line(method: str, spread: float, group: list[dict[str, Any]]) -> str:
    cells = [
        method,
        f"{spread}",
        *(over_runs([row[name] for row in group]) for name in ("success", "entropy")),
    ]
    cells += [_each(group, "present_modes"), _each(group, "commandable_modes")]
    cells += [_mean(group, "deterministic_success", "{:.3f}")]
    cells += [_each(group, "deterministic_present_modes")]
    cells += [_mean(group, "env_steps", "{:,.0f}"), _mean(group, "seconds", "{:.0f}")]
    return "| " + " | ".join(cells) + " |"


def _each(group: list[dict[str, Any]], name: str) -> str:
    return ", ".join(str(row[name]) for row in group if name in row)


def _mean(group: list[dict[str, Any]], name: str, form: str) -> str:
    values = [row[name] for row in group if name in row]
    return form.format(np.mean(values)) if values else ""
