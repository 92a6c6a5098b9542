from __future__ import annotations

import matplotlib as mpl

from modereg.recipes.build import Setup
from modereg.report import ReportEntry
from modereg.report.codes import draw_codes, draw_tables
from modereg.report.curves import behaviour_figure, draw_bound, draw_curves
from modereg.report.shares import draw_shares
from modereg.report.style import method_colors
from tests.report.test_trajectories import width


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
