from __future__ import annotations

import re
from dataclasses import replace

import matplotlib as mpl
import pytest

from modereg.paths import Paths
from modereg.recipes.setup import Setup
from modereg.report import ReportEntry, record_paths
from modereg.report.behaviours import draw_codes, draw_shares, draw_tables
from modereg.report.curves import behaviour_figure, draw_bound, draw_curves
from modereg.report.gallery import CARDS
from modereg.report.gallery import cards as cards_of
from modereg.report.page import _environment
from modereg.report.style import method_colors
from tests.report.test_trajectories import width


@pytest.fixture(scope="module")
def paths(avoid: Setup) -> Paths:
    return record_paths(avoid, None, 3, num_episodes=8, seed=1)


def cards(setup: Setup, entries: list[ReportEntry], paths: Paths) -> list[str]:
    names = [entry.name for entry in entries]
    found = cards_of(
        setup.task, entries, dict.fromkeys(names, paths), dict.fromkeys(names, "#0072b2")
    )
    template = _environment().get_template("parts.html").module
    return [str(template.card(each)) for each in found]  # type: ignore[attr-defined]


def changed(
    entry: ReportEntry, name: str, group: str | None = None, **figures: object
) -> ReportEntry:
    metrics = {"sampled": {**entry.sampled, **figures}}
    return replace(entry, name=name, label=name, metrics=metrics, group=group)


def test_success_and_modes_of_each_method(
    avoid: Setup, entries: list[ReportEntry], paths: Paths
) -> None:
    shares = [0.0, 0.009, 0.01, *[0.981 / 21] * 21]
    given = changed(entries[1], "mine", success=0.996, present_modes=22, mode_shares=shares)
    base, mine = cards(avoid, [entries[0], given], paths)
    assert "Base &amp; &lt;all&gt;" in base
    assert "<b>99.6\u2009%</b> success" in mine
    assert "<b>22</b> of 24 modes" in mine
    assert mine.count("<i style=") == 22
    assert mine.count("<i></i>") == 2
    assert f"missing: {avoid.task.mode_names[0]}, {avoid.task.mode_names[1]}." in mine  # type: ignore[index]
    assert "alt=" in mine


def test_seeds_share_a_card(avoid: Setup, entries: list[ReportEntry], paths: Paths) -> None:
    runs = [
        changed(entries[1], f"s{index}", "mine", success=rate, present_modes=modes)
        for index, (rate, modes) in enumerate([(0.9, 20), (1.0, 24), (0.8, 22)])
    ]
    _, card = cards(avoid, [entries[0], *runs], paths)
    assert "mine, 3 seeds" in card
    assert "<b>90\u2009%</b> success" in card
    assert "80\u2009% to 100\u2009%" in card
    assert "<b>22</b> of 24 modes" in card
    assert "20 to 24" in card


def test_a_mode_that_some_seeds_lack_is_pale(
    avoid: Setup, entries: list[ReportEntry], paths: Paths
) -> None:
    shares = ([1 / 24] * 24, [0.0, *[1 / 23] * 23], [0.0, 0.0, *[1 / 22] * 22])
    runs = [
        changed(entries[1], f"s{index}", "mine", present_modes=24 - index, mode_shares=row)
        for index, row in enumerate(shares)
    ]
    (card,) = cards(avoid, runs, paths)
    assert card.count("<i style=") == 24
    assert card.count("opacity") == 2
    names = avoid.task.mode_names or ()
    assert f"missing in some: {names[0]}, {names[1]}." in card


def test_without_a_label(pendulum: Setup, unlabelled: list[ReportEntry], paths: Paths) -> None:
    base, run, _ = cards(
        pendulum, unlabelled, record_paths(pendulum, None, 1, num_episodes=2, seed=1)
    )
    assert "no codes yet" in base
    assert "return" in base
    assert re.search(r"of 3 codes can be told apart", run)
    assert "<i" not in run.split("numbers")[1]


def test_there_are_not_too_many(avoid: Setup, entries: list[ReportEntry], paths: Paths) -> None:
    many = [changed(entries[1], f"run {index}") for index in range(CARDS + 3)]
    assert len(cards(avoid, many, paths)) == CARDS


def test_pictures_are_pngs_and_leave_matplotlib_alone(
    avoid: Setup, entries: list[ReportEntry]
) -> None:
    colors = method_colors([entry.name for entry in entries])
    before = dict(mpl.rcParams)
    draw = [
        lambda: draw_shares(avoid.task, entries, colors),
        lambda: draw_tables(avoid.task, entries[1:], colors),
        lambda: draw_curves(entries, colors),
        lambda: draw_bound(entries[1:], colors),
        lambda: draw_codes(entries, colors),
    ]
    for function in draw:
        first = function()
        assert 600 < width(first) < 2500
        assert len(first) < 150_000
        assert function() == first
    assert dict(mpl.rcParams) == before


def test_the_second_curve_is_entropy_or_codes(entries: list[ReportEntry]) -> None:
    assert behaviour_figure(entries) == "entropy"
    given = dict(entries[2].sampled) | {"entropy": None}
    assert behaviour_figure([ReportEntry("base", "Base", None, given)]) == "effective_codes"
