"""What a person sees first: a card a method, with its picture, its success and its modes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        returns = [entry.sampled["mean_return"] for entry in runs]
        return _big(returns, "{:.1f}".format, "return")
    return _big(known, percent, "success")


def _behaviours(task: Task, runs: Sequence[ReportEntry]) -> str:
    """Return the present modes with a square each, else the codes that can be told apart."""
    present = [entry.sampled.get("present_modes") for entry in runs]
    counted = [float(count) for count in present if count is not None]
    if task.num_modes is not None and counted:
        return _big(counted, "{:.3g}".format, f"of {task.num_modes} modes") + _squares(task, runs)
    known = [entry.sampled.get("effective_codes") for entry in runs]
    codes = [float(value) for value in known if value is not None]
    if codes:
        name = f"of {runs[0].num_codes} codes can be told apart"
        return _big(codes, "{:.1f}".format, name)
    return '<p class="big none"><b>–</b> no codes yet</p>' if runs[0].num_codes == 1 else ""


def _big(values: Sequence[float], show: Callable[[float], str], name: str) -> str:
    """Return a mean in large figures, and the range of several."""
    mean, low, high = sum(values) / len(values), show(min(values)), show(max(values))
    spread = "" if low == high else f' <span class="range">{low} to {high}</span>'
    return f'<p class="big"><b>{show(mean)}</b> {escape(name)}{spread}</p>'


def _squares(task: Task, runs: Sequence[ReportEntry]) -> str:
    """Return a square a mode: in its colour where it is present, pale where not in every run."""
    shares = [entry.sampled["mode_shares"] for entry in runs]
    number = len(shares[0])
    names = task.mode_names or tuple(f"mode {index}" for index in range(number))
    there = [sum((row[mode] or 0) >= PRESENT for row in shares) for mode in range(number)]
    missing = [name for name, count in zip(names, there, strict=True) if count < len(runs)]
    said = f"Modes present; missing{' in some' * (len(runs) > 1)}: {', '.join(missing) or 'none'}."
    squares = "".join(
        _square(color, count / len(runs))
        for color, count in zip(label_colors(number), there, strict=True)
    )
    across = f"--columns:{-(-number // -(-number // SQUARES))}"
    return f'<p class="modes" style="{across}" role="img" aria-label="{escape(said)}">{squares}</p>'


def _square(color: str, share: float) -> str:
    if not share:
        return "<i></i>"
    pale = "" if share == 1 else ";opacity:.45"
    return f'<i style="background:{color};border-color:{color}{pale}"></i>'
