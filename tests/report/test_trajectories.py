from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from modereg.paths import Paths
from modereg.recipes.setup import Setup
from modereg.report import ReportEntry, record_paths, trajectories
from modereg.report.style import png
from modereg.report.trajectories import draw_thumbnail, draw_trajectories, make_scene, subtitle

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
    assert [modes.tolist() for modes in seen] == [[-1]] * 3  # the range, and two panels
    other = {
        name: replace(path, codes=(path.codes + 1) % 3, success=None)
        for name, path in paths.items()
    }
    assert draw_trajectories(task, entries[1:], other, colors, by="code") != by_code
    assert width(by_code) > 300


@pytest.mark.parametrize(
    ("dimensions", "names"), [(1, None), (2, None), (3, None), (3, ("x", "y", "z")), (5, None)]
)
def test_features_without_a_plot(
    dimensions: int,
    names: tuple[str, ...] | None,
    pendulum: Setup,
    entries: list[ReportEntry],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each line lies within its axes, which are the same for all methods."""
    drawn: list[Figure] = []
    monkeypatch.setattr(trajectories, "png", lambda figure: (drawn.append(figure), png(figure))[1])
    codes = torch.tensor([0, 1, 2, 0, 1, 2])
    paths = {
        entry.name: Paths(
            scale * torch.randn(6, 10, dimensions), torch.full((6,), 9), codes, success=codes > 0
        )
        for entry, scale in zip(entries[:2], (1, 3), strict=True)
    }
    task = replace(pendulum.task, feature_names=names)
    data = draw_trajectories(task, entries[:2], paths, dict.fromkeys(paths, "#000000"))
    assert width(data) > 300
    axes = drawn[0].axes
    assert len(axes) == (4 if names else 2)
    assert axes[0].get_xlim() == axes[len(axes) // 2].get_xlim()
    for ax in axes:
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        for path in ax.collections[0].get_paths():
            assert (path.vertices >= [left, low]).all()
            assert (path.vertices <= [right, high]).all()


def test_success_stands_beside_its_modes(entries: list[ReportEntry]) -> None:
    given = entries[2].sampled
    assert f"{given['present_modes']} of 24 modes" in subtitle(given, 24)
    without = dict(given) | {"present_modes": None}
    assert "effective codes" in subtitle(without, None)
    assert subtitle({"mean_return": 1.0}, None) == "return 1.00"


@pytest.mark.parametrize("name", ["a", "a rather long name of a mode"])
def test_a_legend_is_never_wider_than_its_picture(
    name: str, avoid: Setup, entries: list[ReportEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Figure] = []
    monkeypatch.setattr(trajectories, "png", lambda figure: (seen.append(figure), png(figure))[1])
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


def test_a_thumbnail_is_small_and_has_no_frame(
    avoid: Setup, pendulum: Setup, entries: list[ReportEntry]
) -> None:
    for setup in (avoid, pendulum):
        paths = record_paths(setup, None, 1, num_episodes=20, seed=1)
        data = draw_thumbnail(make_scene(setup.task, [paths]), paths, "#0072b2")
        assert 300 < width(data) < 400
        assert len(data) < 60_000
