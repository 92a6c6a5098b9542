from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from modereg.report import ReportEntry
from modereg.report.curves import _draw_seeds, draw_curves
from modereg.report.entries import seed_groups
from modereg.report.folders import read_curves
from modereg.report.results import over_seeds


def seed(name: str, success: float, shift: float, folder: Path) -> ReportEntry:
    """Return a run whose success rises from 0 by ``success`` a thousand steps."""
    folder.mkdir()
    (folder / "config.yaml").write_text("num_codes: 2\n")
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["env_steps", "mean_return", "success"])
        for steps in (0.0, 1000.0, 2000.0):
            writer.writerow([steps + shift, 0.0, success * (steps + shift) / 1000])
    figures = {"success": 2 * success, "mean_return": 0.0, "code_shares": [0.5, 0.5]}
    metrics = {"sampled": figures, "env_steps": 2000}
    return ReportEntry(name, name, folder, metrics, group="mine")


@pytest.fixture
def runs(tmp_path: Path) -> list[ReportEntry]:
    return [
        seed("a", 0.1, 0.0, tmp_path / "a"),
        seed("b", 0.2, 100.0, tmp_path / "b"),
        seed("c", 0.4, 200.0, tmp_path / "c"),
    ]


def test_a_group_is_its_mean_and_range_where_all_its_runs_are(runs: list[ReportEntry]) -> None:
    ax = Figure().subplots()
    assert _draw_seeds(ax, runs, "success", None, "#000000")
    steps, mean = ax.lines[0].get_data()
    assert (steps[0], steps[-1]) == (200, 2000)
    np.testing.assert_allclose(mean, 0.7 / 3 * np.asarray(steps) / 1000)
    band = ax.collections[0].get_paths()[0].vertices
    for edge, rate in ((band[:, 1].min(), 0.1 * 0.2), (band[:, 1].max(), 0.4 * 2.0)):
        assert edge == pytest.approx(rate)
    assert ax.lines[0].get_label() == "mine, 3 seeds"


def test_a_later_final_evaluation_is_part_of_the_line(runs: list[ReportEntry]) -> None:
    later = [
        replace(entry, metrics={**entry.metrics, "env_steps": 3000 + 100 * index})
        for index, entry in enumerate(runs)
    ]
    ax = Figure().subplots()
    assert _draw_seeds(ax, later, "success", None, "#000000")
    steps, mean = ax.lines[0].get_data()
    assert steps[-1] == 3000
    assert mean[0] < mean[-1]


def test_a_run_alone_is_no_group(runs: list[ReportEntry]) -> None:
    assert not _draw_seeds(Figure().subplots(), runs[:1], "success", None, "#000000")
    assert not _draw_seeds(Figure().subplots(), runs, "entropy", None, "#000000")
    alone = [replace(entry, group=None) for entry in runs]
    assert list(seed_groups(alone)) == ["a", "b", "c"]
    assert over_seeds(alone, {}) is None


def test_the_table_has_the_mean_and_each_run(runs: list[ReportEntry]) -> None:
    alone = ReportEntry("d", "d", None, {"sampled": {"success": 0.5}})
    table = over_seeds([alone, *runs], {"a": "#123456"})
    assert table is not None
    (row,) = table.rows
    assert (row.label, row.color) == ("mine, 3 seeds", "#123456")
    assert table.groups[0].names == ["success"]
    assert row.cells == [["0.467 (0.200, 0.400, 0.800)"]]


def test_the_picture_of_a_group_differs_from_that_of_its_runs(runs: list[ReportEntry]) -> None:
    colors = dict.fromkeys("abc", "#0072b2")
    alone = [replace(entry, group=None) for entry in runs]
    assert draw_curves(runs, colors) != draw_curves(alone, colors)


def test_the_weight_is_that_of_each_iteration(runs: list[ReportEntry]) -> None:
    entry = runs[0]
    assert entry.series("coef") == []
    path = (entry.run_folder or Path()) / "curves.csv"
    rows = [{**row, "coef": 0.1 * i} for i, row in enumerate(read_curves(path.parent))]
    del rows[0]["mean_return"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[1]))
        writer.writeheader()
        writer.writerows(rows)
    again = ReportEntry("a", "a", entry.run_folder, entry.metrics)
    assert again.series("coef") == [(0.0, 0.0), (1000.0, 0.1), (2000.0, 0.2)]
    assert ReportEntry("base", "base", None, entry.metrics).series("coef") == []
