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

from modereg.checkpoints import load_adapter
from modereg.errors import ConfigurationError
from modereg.recipes.config import EvaluateConfig
from modereg.recipes.evaluate import evaluate
from modereg.recipes.events import (
    Advanced,
    Evaluated,
    Event,
    Finished,
    Planned,
    Progressed,
    Started,
)
from modereg.recipes.follow import discover, finetune, follow, pretrain
from tests.docs.pages import run_page
from tests.recipes.conftest import (
    QUIET,
    by_reward,
    clustering,
    discover_config,
    finetune_config,
    guiding,
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
        assert next(events) == Started(config.out, resumed=stop > 0)
        for event in disturbed(events):
            found.append(event)
            if isinstance(event, Advanced) and stop < stops:
                break
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
    assert isinstance(events[-1], Finished)
    assert events[-1].fresh
    planned = [event for event in events if isinstance(event, Planned)]
    assert [event.env_steps for event in planned] == [4000]  # once, before anything was trained
    assert planned[0].steps_per_second > 0
    rows = [event for event in events if isinstance(event, Advanced)]
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    # the second row's evaluation was not asked for
    assert len(evaluated) == len(read_rows(tmp_path / "a")) // 2 - 1
    for event in evaluated:
        before = events[events.index(event) - 1]
        assert isinstance(before, Advanced)
        assert before.done == event.env_steps
        assert before.row["success"] == event.figures["success"]
    assert [event.row["coef"] for event in rows] == [0.3] * len(rows)
    assert {event.phase for event in rows} == {"training"}
    assert rows[-1].done == rows[-1].total
    again = list(follow(config))
    assert [type(event) for event in again] == [Started, Finished]
    assert not again[-1].fresh


@pytest.mark.parametrize("policy", ["cloned", "heading_without_gradient"])
def test_every_phase_of_stage_one_can_be_the_last_before_a_stop(
    policy: str,
    base: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("modereg.recipes.discover.CLASSIFIER_STEPS", 100)
    if policy == "cloned":
        method: Any = clustering(
            imitation_steps=60, refine_steps=10, target=1.0, episodes=768, refine_episodes=128
        )
    else:
        monkeypatch.setattr("modereg.discovery.decoder_choice.FRESH", 1000)
        steps = dict(outcome_steps=20, guide_steps=20, student_steps=40)
        method, base = guiding(target=1.0, episodes=256, **steps), f"tests.recipes.tiny:{policy}"
    config = discover_config(base, tmp_path / "a", method=method, num_codes=6)
    discover(replace(config, out=tmp_path / "b", log=replace(QUIET, progress=True)))
    shown = [re.split(r":", line)[1].strip() for line in capsys.readouterr().err.splitlines()]
    phases = [
        "episodes of the base",
        "clustering",
        "first fit",
        "refinement 1 of at most 2",
        "refinement 2 of at most 2",
        "choosing codes",
        "judging",
    ]
    rows = check(config, tmp_path / "b", 3, SAME + ADAPTER)
    assert capsys.readouterr().err == ""
    assert [event.row["phase"] for event in rows] == ["cluster", "fit", "refine", "refine"]
    assert len(shown) >= 2
    events = list(follow(replace(config, out=tmp_path / "c")))
    seen = [event.phase for event in events if isinstance(event, Progressed)]
    assert [name for name in dict.fromkeys(seen) if name in phases] == phases


def test_a_residual_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    few = guiding(
        outcome_steps=20, guide_steps=20, episodes=256, refinements=1, residual=0.5, target=1.0
    )
    heading = "tests.recipes.tiny:heading"
    config = discover_config(heading, tmp_path / "a", method=few, num_codes=6)
    discover(replace(config, out=tmp_path / "b"))
    rows = check(config, tmp_path / "b", 4, SAME + ADAPTER)
    assert [event.row["phase"] for event in rows] == ["cluster", "fit", "refine", "refine"]
    adapter = load_adapter(tmp_path / "a" / "adapter")
    assert adapter.residual is not None
    assert adapter.residual.bound == 0.5
    judged = evaluate(
        EvaluateConfig(run=str(tmp_path / "a"), episodes=256, seed=10_000, trust_code=True)
    )
    assert judged["sampled"] == read_summary(tmp_path / "a")["sampled"]
    steps = read_summary(tmp_path / "a")["env_steps"] + 2500
    tune = finetune_config(
        heading, tmp_path / "c", steps, start=str(tmp_path / "a"), accept_uncommanded=True
    )
    finetune(tune)
    tuned = load_adapter(tmp_path / "c" / "adapter").residual
    assert tuned is not None
    for name, value in adapter.residual.state_dict().items():
        assert torch.equal(tuned.state_dict()[name], value), name


def test_the_papers_stage_one_can_be_stopped_after_any_batch(base: str, tmp_path: Path) -> None:
    config = discover_config(base, tmp_path / "a", method=by_reward(), num_codes=3)
    discover(replace(config, out=tmp_path / "b"))
    assert len(check(config, tmp_path / "b", 2, SAME + ADAPTER)) == 3


def test_cloning_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    config = pretrain_config(tmp_path / "a", steps=410, episodes=8, hidden=(16,), batch=32)
    whole = pretrain(replace(config, out=tmp_path / "b"))
    rows = check(config, tmp_path / "b", 2, ("curves.csv",))
    assert [(event.phase, event.done, event.total) for event in rows] == [
        ("cloning", 200, 410),
        ("cloning", 400, 410),
        ("cloning", 410, 410),
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
