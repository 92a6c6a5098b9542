"""What a person sees first: a card a method, with its picture, its success and its modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from modereg.metrics import PRESENT
from modereg.report import html
from modereg.report.entries import ReportEntry
from modereg.report.paths import Paths
from modereg.report.seeds import seed_groups
from modereg.report.style import percent
from modereg.report.trajectories import draw_thumbnail, make_scene
from modereg.tasks import Task
from modereg.tasks.plots import label_colors

__all__ = ["headline"]

SQUARES = 12
"""Squares side by side, at most."""

CARDS = 6
"""Cards, at most; the table of results has every run."""


def headline(
    task: Task,
    entries: Sequence[ReportEntry],
    paths: Mapping[str, Paths],
    colors: Mapping[str, str],
) -> str:
    """Return the cards: the base first, then each method, runs of several seeds on one card.

    Success never stands without what became of the modes, or, without a label, of the codes.
    """
    groups = list(seed_groups(entries).values())[:CARDS]
    scene = make_scene(task, [paths[runs[0].name] for runs in groups])
    columns = len(groups) if len(groups) <= 4 else -(-len(groups) // 2)
    cards = [
        _card(task, runs, colors[runs[0].name], draw_thumbnail(scene, paths[runs[0].name], color))
        for runs in groups
        for color in [colors[runs[0].name]]
    ]
    return f'<ul class="cards" style="--columns:{columns}">{"".join(cards)}</ul>'


def _card(task: Task, runs: Sequence[ReportEntry], color: str, picture: bytes) -> str:
    label = runs[0].label if len(runs) == 1 else f"{runs[0].group}, {len(runs)} seeds"
    image = html.image(picture, f"Where the episodes of {label} went.", "thumb")
    return (
        f'<li class="card"><h3>{html.dot(color)}{escape(label)}</h3>'
        f'<div class="view">{image}</div><div class="numbers">{_success(runs)}'
        f"{_behaviours(task, runs)}</div></li>"
    )


def _success(runs: Sequence[ReportEntry]) -> str:
    rates = [entry.sampled.get("success") for entry in runs]
    known = [rate for rate in rates if rate is not None]
    if not known:
        return _big([entry.sampled["mean_return"] for entry in runs], ".1f", "return")
    if len(known) == 1:
        return f'<p class="big"><b>{percent(known[0])}</b> success</p>'
    return _big([100 * rate for rate in known], ".0f", "success", "\u2009%")


def _behaviours(task: Task, runs: Sequence[ReportEntry]) -> str:
    """Return the present modes with a square each, else the codes that can be told apart."""
    present = [entry.sampled.get("present_modes") for entry in runs]
    counted = [float(count) for count in present if count is not None]
    if task.num_modes is not None and counted:
        form = ".0f" if len(set(counted)) == 1 else ".1f"
        return _big(counted, form, f"of {task.num_modes} modes") + _squares(task, runs[0])
    known = [entry.sampled.get("effective_codes") for entry in runs]
    codes = [float(value) for value in known if value is not None]
    if codes:
        return _big(codes, ".1f", f"of {runs[0].num_codes} codes can be told apart")
    return '<p class="big none"><b>–</b> no codes yet</p>' if runs[0].num_codes == 1 else ""


def _big(values: Sequence[float], form: str, name: str, unit: str = "") -> str:
    """Return a mean in large figures, and the range of several."""
    mean, spread = sum(values) / len(values), ""
    low, high = f"{min(values):{form}}", f"{max(values):{form}}"
    if low != high:
        spread = f' <span class="range">{low}–{high}{unit}</span>'
    return f'<p class="big"><b>{mean:{form}}{unit}</b> {escape(name)}{spread}</p>'


def _squares(task: Task, entry: ReportEntry) -> str:
    """Return a square a mode, in its colour where it is present and empty where it is not."""
    shares = entry.sampled.get("mode_shares")
    if shares is None:
        return ""
    names = task.mode_names or tuple(f"mode {index}" for index in range(len(shares)))
    there = [share is not None and share >= PRESENT for share in shares]
    missing = [name for name, shown in zip(names, there, strict=True) if not shown]
    said = f"Modes present; missing: {', '.join(missing) or 'none'}."
    squares = "".join(
        f'<i style="background:{color};border-color:{color}"></i>' if shown else "<i></i>"
        for color, shown in zip(label_colors(len(shares)), there, strict=True)
    )
    rows = -(-len(shares) // SQUARES)
    across = f"--columns:{-(-len(shares) // rows)}"
    return f'<p class="modes" style="{across}" role="img" aria-label="{escape(said)}">{squares}</p>'
