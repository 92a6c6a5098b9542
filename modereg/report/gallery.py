"""What a page shows besides words: a card a method, and the pictures there is something to say in.

The words of the cards and pictures are in the templates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from modereg.metrics import PRESENT
from modereg.paths import Paths
from modereg.report.behaviours import draw_codes, draw_shares, draw_tables
from modereg.report.curves import draw_bound, draw_curves
from modereg.report.entries import ReportEntry, seed_groups
from modereg.report.numbers import known, number, percent, span
from modereg.report.projections import describe
from modereg.report.trajectories import By, draw_thumbnail, draw_trajectories, make_scene
from modereg.tasks import Task
from modereg.tasks.plots import label_colors

__all__ = ["CARDS", "Card", "Picture", "Value", "cards", "columns_of", "pictures"]

SQUARES = 12
"""Squares side by side, at most."""

CARDS = 6
"""Cards, at most; the table of results has every run."""


@dataclass(frozen=True)
class Value:
    """A figure in large print."""

    text: str
    name: str
    range: str = ""
    known: bool = True


@dataclass(frozen=True)
class Card:
    """A method at first sight.

    Attributes:
        label: what it is called.
        color: of the method.
        picture: where its episodes went, a PNG.
        values: success, never without what became of the modes or codes.
        squares: colour of each mode, and in which share of the runs it is present.
        across: squares side by side.
        missing: which modes are missing, in words.
    """

    label: str
    color: str
    picture: bytes
    values: tuple[Value, ...]
    squares: tuple[tuple[str, float], ...] = ()
    across: int = 1
    missing: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture of several methods."""

    name: str
    data: bytes
    entries: Sequence[ReportEntry]
    note: str = ""

    @property
    def width(self) -> int:
        """Pixels that it is shown at, at most: the header of a PNG says its width."""
        return round(int.from_bytes(self.data[16:20], "big") / 1.4)


def cards(
    task: Task,
    entries: Sequence[ReportEntry],
    paths: Mapping[str, Paths],
    colors: Mapping[str, str],
) -> list[Card]:
    """Return the base first, then each method; the runs of several seeds share a card."""
    groups = list(seed_groups(entries).values())[:CARDS]
    scene = make_scene(task, [paths[runs[0].name] for runs in groups])
    found = []
    for runs in groups:
        label = runs[0].label if len(runs) == 1 else f"{runs[0].group}, {len(runs)} seeds"
        color = colors[runs[0].name]
        picture = draw_thumbnail(scene, paths[runs[0].name], color)
        values = (_success(runs), *_behaviours(task, runs))
        found.append(Card(label, color, picture, values, *_squares(task, runs)))
    return found


def columns_of(count: int) -> int:
    """Return how many of so many cards stand side by side."""
    return count if count <= 4 else -(-count // 2)


def _success(runs: Sequence[ReportEntry]) -> Value:
    figures = [entry.sampled for entry in runs]
    rates = known(figures, "success")
    if rates:
        return _value(rates, percent, "success")
    return _value(known(figures, "mean_return"), lambda value: number(value, ".1f"), "return")


def _behaviours(task: Task, runs: Sequence[ReportEntry]) -> list[Value]:
    """Return the present modes, else the codes that can be told apart."""
    figures = [entry.sampled for entry in runs]
    present, codes = known(figures, "present_modes"), known(figures, "effective_codes")
    if task.num_modes is not None and present:
        return [_value(present, lambda value: number(value, ".3g"), f"of {task.num_modes} modes")]
    if codes:
        name = f"of {runs[0].num_codes} codes can be told apart"
        return [_value(codes, lambda value: number(value, ".1f"), name)]
    return [Value("–", "no codes yet", known=False)] if runs[0].num_codes == 1 else []


def _value(values: Sequence[float], show: Callable[[float], str], name: str) -> Value:
    """Return a mean, and the range of several that differ."""
    reach = span(values, show)
    return Value(show(sum(values) / len(values)), name, reach if " to " in reach else "")


def _squares(
    task: Task, runs: Sequence[ReportEntry]
) -> tuple[tuple[tuple[str, float], ...], int, str]:
    """Return a square a mode, how many stand side by side, and which modes are missing."""
    shares = [entry.sampled.get("mode_shares") for entry in runs]
    if task.num_modes is None or not all(shares):
        return (), 1, ""
    total = task.num_modes
    there = [sum((row[mode] or 0) >= PRESENT for row in shares if row) for mode in range(total)]
    names = task.mode_names or tuple(f"mode {index}" for index in range(total))
    missing = [name for name, count in zip(names, there, strict=True) if count < len(runs)]
    said = f"{' in some' * (len(runs) > 1)}: {', '.join(missing) or 'none'}"
    present = [count / len(runs) for count in there]
    squares = tuple(zip(label_colors(total), present, strict=True))
    return squares, -(-total // -(-total // SQUARES)), said


def pictures(
    task: Task,
    entries: Sequence[ReportEntry],
    paths: Mapping[str, Paths],
    colors: Mapping[str, str],
) -> list[Picture]:
    """Draw what the entries have something to show for."""
    coded = [entry for entry in entries if entry.num_codes > 1]
    inferred = [entry for entry in entries if entry.series("bound_share")]
    found = [_trajectories(task, entries, paths, colors)]
    if task.num_modes is not None:
        found += [_trajectories(task, coded, paths, colors, "code")] if coded else []
        present = "; ".join(
            f"{entry.label}: {entry.sampled['present_modes']} of {task.num_modes}"
            for entry in entries
        )
        found.append(Picture("shares", draw_shares(task, entries, colors), entries, present))
    if coded:
        found.append(Picture("codes", draw_codes(entries, colors), entries))
    if any(entry.series("mean_return") for entry in entries):
        found.append(Picture("curves", draw_curves(entries, colors), entries))
    if task.num_modes is not None and coded:
        told = [f"{e.label}: NMI {number(e.sampled['code_mode_nmi'], '.2f')}" for e in coded]
        data = draw_tables(task, coded, colors)
        found.append(Picture("codes_and_modes", data, coded, "; ".join(told)))
    if inferred:
        found.append(Picture("bound", draw_bound(inferred, colors), inferred))
    return found


def _trajectories(
    task: Task,
    entries: Sequence[ReportEntry],
    paths: Mapping[str, Paths],
    colors: Mapping[str, str],
    by: By | None = None,
) -> Picture:
    """Draw where the episodes went, and say how more than two dimensions were laid in the plane."""
    drawn = [paths[entry.name] for entry in entries]
    scene = make_scene(task, drawn, by)
    note = describe(scene.views, drawn[0].positions.shape[-1]) if scene.own is None else ""
    name = "trajectories" if by is None else f"trajectories_by_{by}"
    return Picture(name, draw_trajectories(task, entries, paths, colors, by), entries, note)
