from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from modereg.report import ReportEntry


def test_curves_hold_numbers_only(entries: list[ReportEntry]) -> None:
    rows = entries[2].curves
    assert [row["env_steps"] for row in rows] == [2600, 2700, 2800, 2900]
    assert ["success" in row for row in rows] == [False, True, False, True]
    assert all("phase" not in row for row in rows)


def test_series_are_the_evaluations_and_final_is_the_summary(entries: list[ReportEntry]) -> None:
    entry = entries[2]
    assert [steps for steps, _ in entry.series("success")] == [2700, 2900]
    assert entry.final("success") == (3000.0, entry.sampled["success"])
    assert entries[0].series("success") == []
    assert entries[0].final("success") is None


def test_stage_one_is_found_where_the_run_says(entries: list[ReportEntry]) -> None:
    base, first, second = entries
    assert base.stage_one is None
    assert first.stage_one is None
    assert second.stage_one is not None
    assert second.stage_one.env_steps == 1000
    assert second.stage_one.figures == first.sampled


def test_a_lost_stage_one_still_counts(entries: list[ReportEntry], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(entries[2].run_folder or "", folder)
    (folder / "config.yaml").write_text("start: nowhere\n")
    stage = ReportEntry("regularised", "Regularised", folder).stage_one
    assert stage is not None
    assert stage.env_steps == 2600
    assert stage.figures == {}


def test_seconds_include_stage_one(entries: list[ReportEntry]) -> None:
    assert entries[1].seconds == 20
    assert entries[2].seconds == 40
    assert entries[0].seconds is None
    assert replace(entries[0], metrics={**entries[0].figures, "seconds": 3.5}).seconds == 3.5


@pytest.mark.parametrize("wrapped", [True, False])
def test_metrics_may_be_an_evaluation_or_bare_figures(
    entries: list[ReportEntry], wrapped: bool
) -> None:
    figures = json.loads(json.dumps(dict(entries[1].sampled)))
    entry = ReportEntry("base", "Base", None, {"sampled": figures} if wrapped else figures)
    assert entry.sampled == figures
    assert entry.deterministic is None
    assert entry.num_codes == 3
