"""The benchmark of BMD's tasks: its rows, and that what is there is not made again."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from modereg.files import write_json
from modereg.recipes.config import EvaluateConfig, TaskConfig
from modereg.recipes.evaluate import evaluate

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bmd(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "bmd", raising=False)
    import bmd

    return bmd


def test_a_row_of_what_was_judged_and_is_not_judged_again(bmd: ModuleType, tmp_path: Path) -> None:
    session = bmd.Session(tmp_path, "mixture", 3, smoke=False)
    config = EvaluateConfig(
        base="tests.recipes.tiny:policy",
        out=session.runs / "base",
        task=TaskConfig("task:gaussian_mixture"),
        episodes=40,
    )
    figures = evaluate(config)["sampled"]
    session.do("base")  # there is no base to judge
    row = session.row("base")
    assert (row["task"], row["method"], row["seed"], row["episodes"]) == ("mixture", "base", 3, 40)
    assert row["success"] == pytest.approx(figures["success"], abs=1e-4)
    assert row["success_by_mode_mean"] == pytest.approx(figures["mean_mode_success"], abs=1e-4)
    assert (row["modes"], row["mastered"]) == (4, figures["mastered_modes"])
    columns = bmd.__doc__[bmd.__doc__.index("Columns:") :]
    assert not [name for name in row if name not in columns and name not in bmd.ABOUT]


def test_rows_of_before_are_kept_and_replaced(bmd: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "bmd.json"
    assert bmd.kept_rows(path) == {}
    rows = [
        {"task": task, "method": method, "seed": seed}
        for task, method, seed in (("lift", "base", 0), ("mixture", "modereg", 1))
    ]
    write_json(path, {"rows": rows})
    kept = bmd.kept_rows(path)
    assert [kept[place] for place in sorted(kept)] == rows[::-1]


def test_bases_that_are_shared_are_of_the_same_task(bmd: ModuleType, tmp_path: Path) -> None:
    for name, bed in bmd.BEDS.items():
        session = bmd.Session(tmp_path, name, 0, smoke=False)
        shared = bmd.BEDS[bed.base or name]
        assert shared.task == bed.task
        assert shared.base is None
        assert session.cloned == tmp_path / f"{bed.base or name}-0" / "cloned"
