"""Several seeds of one method: the mean and the range of what their runs came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from modereg.report import html
from modereg.report.entries import ReportEntry

__all__ = ["over_seeds", "seed_groups"]

FIGURES = {
    "mean_return": ("return", ".2f"),
    "success": ("success", ".3f"),
    "entropy": ("entropy", ".3f"),
    "present_modes": ("present", ".3g"),
    "commandable_modes": ("commandable", ".3g"),
    "code_mode_nmi": ("NMI", ".2f"),
    "effective_codes": ("effective codes", ".1f"),
    "bound_share": ("bound", ".2f"),
}
"""Name of a figure, what the table calls it, and its format."""


def seed_groups(entries: Sequence[ReportEntry]) -> dict[str, list[ReportEntry]]:
    """Return the runs of each group, those alone by their names, in order."""
    found: dict[str, list[ReportEntry]] = {}
    for entry in entries:
        found.setdefault(entry.group or entry.name, []).append(entry)
    return found


def over_seeds(entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> str:
    """Return a table of the groups of several runs: mean, lowest and highest over the seeds.

    Empty where every run stands alone. The figures are those with sampled noise.
    """
    groups = {name: runs for name, runs in seed_groups(entries).items() if len(runs) > 1}
    if not groups:
        return ""
    runs = [entry for group in groups.values() for entry in group]
    names = [name for name in FIGURES if any(e.sampled.get(name) is not None for e in runs)]
    names = [name for name in names if name != "mean_return" or "success" not in names]
    if all(entry.num_codes == 1 for entry in runs):
        names = [name for name in names if name != "code_mode_nmi"]
    lines = [
        [f"{group}, {len(runs)} seeds", *(_range(runs, name) for name in names)]
        for group, runs in groups.items()
    ]
    heading = ["method", *(FIGURES[name][0] for name in names)]
    return html.table([("", heading)], lines, [colors[runs[0].name] for runs in groups.values()])


def _range(runs: Sequence[ReportEntry], name: str) -> str:
    values = [entry.sampled.get(name) for entry in runs]
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    form = FIGURES[name][1]
    return f"{np.mean(known):{form}} ({min(known):{form}}–{max(known):{form}})"
