"""What the page says in words and numbers: the summary, and the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modereg.report.entries import ReportEntry, seed_groups
from modereg.report.numbers import (
    NONE,
    known,
    number,
    over_runs,
    percent,
    rate,
    span,
    steps,
)
from modereg.tasks import Task

__all__ = ["Group", "Row", "Table", "over_seeds", "results", "summary"]

Figures = Mapping[str, Any]
Column = tuple[str, Callable[[Figures], str]]

OVER_SEEDS = {
    "mean_return": ("return", ".2f"),
    "success": ("success", ".3f"),
    "entropy": ("entropy", ".3f"),
    "present_modes": ("present", ".3g"),
    "commandable_modes": ("commandable", ".3g"),
    "code_mode_nmi": ("NMI", ".2f"),
    "effective_codes": ("effective codes", ".1f"),
    "bound_share": ("bound", ".2f"),
}
"""Name of a figure, what the table over seeds calls it, and its format."""


@dataclass(frozen=True)
class Group:
    """Columns below one heading, which may be empty."""

    heading: str
    names: Sequence[str]


@dataclass(frozen=True)
class Row:
    """A line: its label, its colour if it has one, and the cells of each group."""

    label: str
    color: str | None
    cells: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Table:
    """Rows below groups of columns; ``first`` is above the labels, ``loose`` cells may wrap."""

    first: str
    groups: Sequence[Group]
    rows: Sequence[Row]
    loose: bool = False

    @property
    def columns(self) -> int:
        """Number of columns beside the labels."""
        return sum(len(group.names) for group in self.groups)


def summary(task: Task, entries: Sequence[ReportEntry]) -> str:
    """Say in three sentences what was done and what came of it; no success without its modes."""
    groups = seed_groups(entries).values()
    base = [_outcome(runs, task.num_modes) for runs in groups if runs[0].run_folder is None]
    tuned = [
        f"{_outcome(runs, task.num_modes)} ({_named(runs)})"
        for runs in groups
        if runs[0].run_folder is not None
    ]
    done = (
        f"A pretrained policy for {task.name} was fine-tuned through the noise that it denoises; "
        "its own weights stayed as they were."
    )
    before = f"Untouched, it reaches {base[0]}." if base else "The untouched policy is not shown."
    after = "Nothing was fine-tuned yet."
    if tuned:
        after = f"Fine-tuned, it reaches {'; '.join(tuned)}."
    return f"{done} {before} {after}"


def _named(runs: Sequence[ReportEntry]) -> str:
    return runs[0].label if len(runs) == 1 else f"{runs[0].group}, {len(runs)} seeds"


def _outcome(runs: Sequence[ReportEntry], modes: int | None) -> str:
    """Say what a run came to, or from what to what several seeds did."""
    figures = [entry.sampled for entry in runs]
    rates, present = known(figures, "success"), known(figures, "present_modes")
    codes, count = known(figures, "effective_codes"), runs[0].num_codes
    if rates:
        reached = f"{span(rates, percent)} success"
    else:
        reached = f"a return of {_span(known(figures, 'mean_return'), '.2f')}"
    if modes is not None and present:
        return f"{reached} with {_span(present, '.0f')} of {modes} modes present"
    if not codes:
        return f"{reached} with {'a single code' if count == 1 else f'{count} codes'}"
    return f"{reached} with {_span(codes, '.1f')} effective codes of {count}"


def _span(values: Sequence[float], form: str) -> str:
    return span(values, lambda value: number(value, form))


def results(
    task: Task,
    entries: Sequence[ReportEntry],
    colors: Mapping[str, str],
) -> Table:
    """Return the table of results: a line a method, sampled and with the mean noise."""
    columns = _columns(task, entries)
    again = [column for column in columns if column[0] != "share a code"]  # the same draws
    both = any(entry.deterministic is not None for entry in entries)
    groups = [Group("sampled noise", [name for name, _ in columns])]
    groups += [Group("mean noise", [name for name, _ in again])] if both else []
    groups.append(Group("cost", ["env steps", "seconds"]))
    lines = []
    for entry in entries:
        cells, mean = [[show(entry.sampled) for _, show in columns]], entry.deterministic
        cells += [[NONE if mean is None else show(mean) for _, show in again]] if both else []
        cells.append([steps(entry.figures.get("env_steps")), number(entry.seconds, ".0f")])
        lines.append(Row(entry.label, colors[entry.name], cells))
    return Table("method", groups, lines)


def over_seeds(entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> Table | None:
    """Return a table of the groups of several runs, None where every run stands alone.

    The figures are those with sampled noise: the mean, and each run's or, from five runs on, the
    interval of the mean.
    """
    groups = {name: runs for name, runs in seed_groups(entries).items() if len(runs) > 1}
    every = [entry for runs in groups.values() for entry in runs]
    if not every:
        return None
    names = [name for name in OVER_SEEDS if known([entry.sampled for entry in every], name)]
    left = {"mean_return"} if "success" in names else set()
    left |= {"code_mode_nmi"} if all(entry.num_codes == 1 for entry in every) else set()
    names = [name for name in names if name not in left]
    lines = []
    for name, runs in groups.items():
        figures = [entry.sampled for entry in runs]
        cells = [over_runs(known(figures, each), OVER_SEEDS[each][1]) for each in names]
        lines.append(Row(f"{name}, {len(runs)} seeds", colors[runs[0].name], [cells]))
    columns = [Group("", [OVER_SEEDS[name][0] for name in names])]
    return Table("method", columns, lines, loose=True)


def _number(name: str, form: str) -> Callable[[Figures], str]:
    return lambda figures: number(figures.get(name), form)


def _nmi(figures: Figures) -> str:
    """Return what a single code, which says nothing of the mode, has none of."""
    return NONE if len(figures["code_shares"]) == 1 else number(figures["code_mode_nmi"], ".2f")


def _range(figures: Figures) -> str:
    values = figures.get("per_code_success") or figures["per_code_return"]
    values = [value for value in values if value is not None]
    return f"{number(min(values), '.2f')} to {number(max(values), '.2f')}" if values else NONE


def _shares(figures: Figures) -> str:
    shares = figures["code_shares"]
    return f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %" if len(shares) > 1 else NONE


def _effective(figures: Figures) -> str:
    count, value = len(figures["code_shares"]), figures.get("effective_codes")
    if value is None:
        return "1 of 1" if count == 1 else NONE
    return f"{number(value, '.1f')} of {count}"


def _columns(task: Task, entries: Sequence[ReportEntry]) -> tuple[Column, ...]:
    """Return what stands beside the success: modes where there is a label, else codes."""
    if task.num_modes is not None:
        return (
            ("success", rate),
            ("entropy", _number("entropy", ".3f")),
            ("present", _number("present_modes", ".0f")),
            ("commandable", _number("commandable_modes", ".0f")),
            ("NMI", _nmi),
        )
    judged = any(entry.sampled.get("success") is not None for entry in entries)
    first = ("success", rate) if judged else ("return", _number("mean_return", ".2f"))
    each = ("success a code" if judged else "return a code", _range)
    return (first, ("effective codes", _effective), each, ("share a code", _shares))
