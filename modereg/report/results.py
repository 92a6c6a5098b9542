"""What the page says in words and numbers: the summary, the table of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modereg.recipes.build import Setup
from modereg.report import html
from modereg.report.entries import ReportEntry, amount
from modereg.report.seeds import seed_groups
from modereg.report.style import percent

__all__ = ["all_rows", "results", "summary"]

NONE = "–"


def summary(setup: Setup, entries: Sequence[ReportEntry]) -> str:
    """Say in three sentences what was done and what came of it; no success without its modes."""
    number = setup.task.num_modes
    groups = seed_groups(entries).values()
    base = [_outcome(runs, number) for runs in groups if runs[0].run_folder is None]
    tuned = [
        f"{_outcome(runs, number)} ({_named(runs)})"
        for runs in groups
        if runs[0].run_folder is not None
    ]
    done = (
        f"A pretrained policy for {setup.task.name} was fine-tuned through the noise that it "
        "denoises; its own weights stayed as they were."
    )
    before = f"Untouched, it reaches {base[0]}." if base else "The untouched policy is not shown."
    after = "Nothing was fine-tuned yet."
    if tuned:
        after = f"Fine-tuned, it reaches {'; '.join(tuned)}."
    return f"{done} {before} {after}"


def _named(runs: Sequence[ReportEntry]) -> str:
    return runs[0].label if len(runs) == 1 else f"{runs[0].group}, {len(runs)} seeds"


def _outcome(runs: Sequence[ReportEntry], number: int | None) -> str:
    """Say what a run came to, or from what to what several seeds did."""
    rates = _known(runs, "success")
    rate = f"a return of {_span(_known(runs, 'mean_return'), '{:.2f}'.format)}"
    if rates:
        rate = f"{_span(rates, percent)} success"
    present, codes = _known(runs, "present_modes"), _known(runs, "effective_codes")
    if number is not None and present:
        return f"{rate} with {_span(present, '{:.0f}'.format)} of {number} modes present"
    if not codes:
        return f"{rate} with {_count(runs[0].num_codes)}"
    return f"{rate} with {_span(codes, '{:.1f}'.format)} effective codes of {runs[0].num_codes}"


def _known(runs: Sequence[ReportEntry], name: str) -> list[float]:
    return [float(entry.sampled[name]) for entry in runs if entry.sampled.get(name) is not None]


def _span(values: Sequence[float], show: Callable[[float], str]) -> str:
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"


def _count(codes: int) -> str:
    return "a single code" if codes == 1 else f"{codes} codes"


def results(
    setup: Setup,
    entries: Sequence[ReportEntry],
    rows: Sequence[Mapping[str, Any]],
    colors: Mapping[str, str],
) -> str:
    """Return the table of results: a line a method, sampled and with the mean noise."""
    columns = _columns(setup, entries)
    names = [name for name, _ in columns]
    groups = [("", ["method"]), ("sampled noise", names)]
    both = any(entry.deterministic is not None for entry in entries)
    again = [column for column in columns if column[0] != "share a code"]  # the same draws
    groups += [("mean noise", [name for name, _ in again])] if both else []
    groups.append(("cost", ["env steps", "seconds"]))
    lines = []
    for entry in entries:
        cells = [show(entry.sampled) for _, show in columns]
        if both:
            mean = entry.deterministic
            cells += [NONE if mean is None else show(mean) for _, show in again]
        cost = [_steps(amount(entry, rows, "env_steps")), _seconds(amount(entry, rows, "seconds"))]
        lines.append([entry.label, *cells, *cost])
    return html.table(groups, lines, [colors[entry.name] for entry in entries])


def all_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of a summary as they are, one column an entry."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[_plain(row.get(name)) for name in names] for row in rows]
    return html.table([("", [name.replace("_", " ") for name in names])], lines)


def _rate(figures: Mapping[str, Any]) -> str:
    if figures.get("success") is None:
        return NONE
    return f"{figures['success']:.3f} ± {figures['success_error']:.3f}"


def _number(name: str, form: str) -> Any:
    def show(figures: Mapping[str, Any]) -> str:
        value = figures.get(name)
        return NONE if value is None else format(value, form).replace("-0.000", "0.000")

    return show


def _nmi(figures: Mapping[str, Any]) -> str:
    """Return what a single code, which says nothing of the mode, has none of."""
    single = len(figures["code_shares"]) == 1
    return NONE if single else _number("code_mode_nmi", ".2f")(figures)


def _range(figures: Mapping[str, Any]) -> str:
    known = figures.get("per_code_success")
    values = [v for v in known or figures["per_code_return"] if v is not None]
    return f"{min(values):.2f} to {max(values):.2f}" if values else NONE


def _shares(figures: Mapping[str, Any]) -> str:
    shares = figures["code_shares"]
    return f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %" if len(shares) > 1 else NONE


def _effective(figures: Mapping[str, Any]) -> str:
    count, value = len(figures["code_shares"]), figures.get("effective_codes")
    if value is None:
        return "1 of 1" if count == 1 else NONE
    return f"{value:.1f} of {count}"


def _columns(setup: Setup, entries: Sequence[ReportEntry]) -> tuple[tuple[str, Any], ...]:
    """Return what stands beside the success: modes where there is a label, else codes."""
    if setup.task.num_modes is not None:
        return _LABELLED
    judged = any(entry.sampled.get("success") is not None for entry in entries)
    first = ("success", _rate) if judged else ("return", _number("mean_return", ".2f"))
    each = ("success a code" if judged else "return a code", _range)
    return (first, ("effective codes", _effective), each, ("share a code", _shares))


_LABELLED = (
    ("success", _rate),
    ("entropy", _number("entropy", ".3f")),
    ("present", _number("present_modes", "d")),
    ("commandable", _number("commandable_modes", "d")),
    ("NMI", _nmi),
)


def _steps(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value / 1e6:.2f} M" if value >= 1e5 else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.0f}"


def _plain(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
