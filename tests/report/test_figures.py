from __future__ import annotations

from dataclasses import replace
from typing import Any

import matplotlib as mpl
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from modereg.recipes.build import Setup
from modereg.report import Paths, ReportEntry, figures, record_paths
from modereg.report.codes import draw_codes, draw_tables
from modereg.report.curves import behaviour_figure, draw_bound, draw_curves
from modereg.report.figures import draw_shares, draw_trajectories, subtitle
from modereg.report.style import method_colors, png

PNG = b"\x89PNG\r\n\x1a\n"


def width(data: bytes) -> int:
    assert data.startswith(PNG)
    return int.from_bytes(data[16:20], "big")


def test_failures_are_drawn_first_and_undecided(avoid: Setup, entries: list[ReportEntry]) -> None:
    seen: list[tuple[Tensor, Tensor, int]] = []

    def plot(ax: Any, observations: Tensor, modes: Tensor, **options: Any) -> None:
        if "limit" in options:
            seen.append((observations, modes, options["limit"]))

    paths = record_paths(avoid, None, 1, num_episodes=30, seed=1)
    task = replace(avoid.task, plot=plot)
    draw_trajectories(task, entries[:1], {"base": paths}, {"base": "#000000"})
    ((observations, modes, limit),) = seen
    assert limit == 30
    failed = int((~paths.success).sum())  # type: ignore[operator]
    assert 0 < failed < 30
    assert bool((modes[:failed] == -1).all())
    assert bool((modes[failed:] >= 0).all())
    assert torch.equal(observations[failed:], paths.positions[paths.success])  # type: ignore[index]


def test_by_code_keeps_what_the_task_draws(avoid: Setup, entries: list[ReportEntry]) -> None:
    """The colours are the codes'; what stands around the trajectories is drawn by the task."""
    seen: list[Tensor] = []

    def plot(ax: Any, observations: Tensor, modes: Tensor, **options: Any) -> None:
        seen.append(modes)

    paths = {e.name: record_paths(avoid, None, 3, num_episodes=12, seed=1) for e in entries[1:]}
    colors = dict.fromkeys(paths, "#000000")
    task = replace(avoid.task, plot=plot)
    by_code = draw_trajectories(task, entries[1:], paths, colors, by="code")
    assert [modes.tolist() for modes in seen] == [[-1]] * 3  # the ratio, and two panels
    other = {
        name: replace(path, codes=(path.codes + 1) % 3, success=None)
        for name, path in paths.items()
    }
    assert draw_trajectories(task, entries[1:], other, colors, by="code") != by_code
    assert width(by_code) > 300


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_features_without_a_plot(
    dimensions: int, pendulum: Setup, entries: list[ReportEntry]
) -> None:
    positions = torch.randn(6, 10, dimensions)
    codes = torch.tensor([0, 1, 2, 0, 1, 2])
    paths = Paths(positions, torch.full((6,), 9), codes, success=codes > 0)
    data = draw_trajectories(pendulum.task, entries[:1], {"base": paths}, {"base": "#000000"})
    assert width(data) > 300


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
        assert function() == first
    assert dict(mpl.rcParams) == before


def test_success_stands_beside_its_modes(entries: list[ReportEntry]) -> None:
    given = entries[2].sampled
    assert f"{given['present_modes']} of 24 modes" in subtitle(given, 24)
    without = dict(given) | {"present_modes": None}
    assert "effective codes" in subtitle(without, None)
    assert subtitle({"mean_return": 1.0}, None) == "return 1.00"


def test_the_second_curve_is_entropy_or_codes(entries: list[ReportEntry]) -> None:
    assert behaviour_figure(entries) == "entropy"
    given = dict(entries[2].sampled) | {"entropy": None}
    assert behaviour_figure([ReportEntry("base", "Base", None, given)]) == "effective_codes"


@pytest.mark.parametrize("name", ["a", "a rather long name of a mode"])
def test_a_legend_is_never_wider_than_its_picture(
    name: str, avoid: Setup, entries: list[ReportEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Figure] = []
    monkeypatch.setattr(figures, "png", lambda figure: (seen.append(figure), png(figure))[1])
    names = tuple(f"{name} {index}" for index in range(5))
    task = replace(avoid.task, num_modes=5, mode_names=names)
    paths = record_paths(avoid, None, 1, num_episodes=4, seed=1)
    paths = replace(paths, modes=torch.zeros(4, dtype=torch.int64))
    draw_trajectories(task, entries[:1], {"base": paths}, {"base": "#000000"})
    box, whole = seen[0].legends[0].get_window_extent(), seen[0].bbox
    assert 0 <= box.x0 < box.x1 <= whole.x1
    assert box.y0 >= 0
    for ax in seen[0].axes:
        assert ax.get_tightbbox().y1 <= whole.y1
