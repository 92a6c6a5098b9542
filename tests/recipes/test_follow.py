from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modereg.errors import ConfigurationError
from modereg.recipes.config import EvaluateConfig
from modereg.recipes.discover import discover
from modereg.recipes.events import Advanced, Evaluated, Event, Finished, Started
from modereg.recipes.finetune import finetune
from modereg.recipes.follow import follow
from modereg.recipes.pretrain import pretrain
from tests.docs.pages import run_page
from tests.recipes.conftest import (
    QUIET,
    discover_config,
    finetune_config,
    pretrain_config,
    read_rows,
    read_summary,
)

SAME = ("summary.json", "curves.csv")
ADAPTER = ("adapter/modereg_config.json", "adapter/modereg_model.safetensors")


def disturbed(events: Iterator[Event]) -> Iterator[Event]:
    """Draw from every global generator after each event, and seed them anew."""
    for event in events:
        torch.manual_seed(random.randrange(1000))
        np.random.seed(int(torch.randint(1000, ())))
        random.seed(np.random.randint(1000))
        yield event


def stop_and_go_on(config: Any, stops: int) -> list[Event]:
    """Stop after each of the first rows, go on each time, and return all events but the starts."""
    found: list[Event] = []
    for stop in range(stops + 1):
        events = follow(replace(config, resume=stop > 0))
        start, event = next(events), next(events)
        assert start == Started(config.out, resumed=stop > 0)
        found.append(event)
        if stop == stops:
            found += disturbed(events)
        events.close()
    return found


def check(config: Any, whole: Path, stops: int, files: tuple[str, ...]) -> list[Advanced]:
    """Compare a run that was stopped with a whole one; return the rows' events."""
    events = stop_and_go_on(config, stops)
    *_, last = events
    assert isinstance(last, Finished)
    assert last.summary == read_summary(config.out)
    for name in files:
        assert (config.out / name).read_bytes() == (whole / name).read_bytes(), name
    rows = [event for event in events if isinstance(event, Advanced)]
    assert len(rows) == len(read_rows(config.out))
    return rows


def test_fine_tuning_is_followed_stopped_and_taken_up(
    base: str, clusters: Path, tmp_path: Path
) -> None:
    steps = read_summary(clusters)["env_steps"] + 4000
    config = finetune_config(base, tmp_path / "a", steps, start=str(clusters))
    finetune(replace(config, out=tmp_path / "b"))
    events = stop_and_go_on(config, 2)
    for name in SAME + ADAPTER:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    kinds = [type(event).__name__ for event in events]
    assert kinds[:3] == [
        "Advanced",
        "Advanced",
        "Advanced",
    ]  # the second's evaluation not asked for
    assert (kinds.count("Evaluated"), kinds[-1]) == (
        len(read_rows(tmp_path / "a")) // 2 - 1,
        "Finished",
    )
    for before, event in zip(events, events[1:]):
        if isinstance(event, Evaluated):
            assert isinstance(before, Advanced)
            assert before.done == event.env_steps
            assert before.row["success"] == event.figures["success"]
    rows = [event for event in events if isinstance(event, Advanced)]
    assert [event.row["coef"] for event in rows] == [0.3] * len(rows)
    assert rows[-1].seconds_left == 0.0
    assert {event.phase for event in rows} == {"training"}
    assert [type(event) for event in follow(config)] == [Started, Finished]


def test_every_phase_of_stage_one_can_be_the_last_before_a_stop(
    base: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("modereg.recipes.discover.CLASSIFIER_STEPS", 100)
    config = discover_config(
        base, tmp_path / "a", imitation_steps=60, refinements=2, refine_steps=10, target=2.0,
        episodes=512, refine_episodes=128, num_codes=6,
    )  # fmt: skip
    discover(replace(config, out=tmp_path / "b", log=replace(QUIET, progress=True)))
    shown = [re.split(r": | \.\.\.", line)[0] for line in capsys.readouterr().err.splitlines()]
    assert list(dict.fromkeys(shown)) == [
        "b, episodes of the base",
        "b, clustering",
        "b, learning the clusters",
        "b, imitation",
        "b, refinement 1 of at most 2, episodes",
        "b, refinement 1 of at most 2, fit",
        "b, refinement 2 of at most 2, episodes",
        "b, refinement 2 of at most 2, fit",
        "b, judging",
    ]
    rows = check(config, tmp_path / "b", 3, SAME + ADAPTER)
    assert capsys.readouterr().err == ""
    assert [event.row["phase"] for event in rows] == ["cluster", "imitate", "refine", "refine"]
    fits = [f"refinement {number} of at most 2, fit" for number in (1, 2)]
    names = ["learning the clusters", "imitation", *fits]
    assert [event.phase for event in rows] == names
    counts = [(event.done, event.total) for event in rows]
    assert counts == [(100, 100), (60, 60), (10, 10), (10, 10)]


def test_cloning_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    config = pretrain_config(tmp_path / "a", steps=450, episodes=8, hidden=(16,), batch=32)
    whole = pretrain(replace(config, out=tmp_path / "b"))
    rows = check(config, tmp_path / "b", 2, ("curves.csv",))
    assert [(event.phase, event.done, event.total) for event in rows] == [
        ("cloning", 200, 450),
        ("cloning", 400, 450),
        ("cloning", 450, 450),
    ]
    files = [path for path in Path(whole["policy"]).rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    for path in files:
        there = tmp_path / "a" / path.relative_to(tmp_path / "b")
        assert there.read_bytes() == path.read_bytes(), path.name


def test_nothing_happens_before_the_first_event(tmp_path: Path) -> None:
    follow(pretrain_config(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigurationError, match="got EvaluateConfig, whose work has no steps"):
        follow(EvaluateConfig())  # type: ignore[arg-type]


def test_the_tutorial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smaller = {"steps=1000": "steps=250", "env_steps=60_000": "env_steps=30_000"}
    made = run_page("tutorials/following_a_run.md", monkeypatch, tmp_path, smaller)
    shown = capsys.readouterr().out
    assert "cloning 250/250" in shown
    assert "resumed: True" in shown
    sampled = made["summary"]["sampled"]
    assert made["event"].summary is made["summary"]
    assert sampled["success"] > 0.6
    assert sampled["entropy"] < 0.9
    assert "<th>success</th>" in shown
