from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modereg import keys, plugins
from modereg.layout import Layout
from modereg.recipes.follow import pretrain
from modereg.recipes.pretrain import chunks_of
from modereg.recipes.runs import Run
from modereg.recordings import load_recording
from modereg.storage import fingerprint
from modereg.tasks import Demonstrations, Task
from modereg.tasks.gaussian_mixture import goal_pay
from tests.recipes.conftest import pretrain_config, read_rows, read_summary


def _demonstrations(lengths: list[int], steps: int) -> Demonstrations:
    """Actions that say where they stand: episode * 100 + step."""
    number = len(lengths)
    place = torch.arange(number)[:, None] * 100.0 + torch.arange(steps + 1)
    inside = torch.arange(steps) < torch.tensor(lengths)[:, None]
    return Demonstrations(
        observations={
            "position": torch.stack([place, -place], -1),
            ("agent", "speed"): place[..., None, None].expand(-1, -1, 2, 1),
        },
        actions=(place[:, :steps] * inside)[..., None],
        lengths=torch.tensor(lengths),
        modes=torch.zeros(number, dtype=torch.int64),
        success=torch.ones(number, dtype=torch.bool),
    )


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 5), st.integers(0, 3))
def test_windows_equal_a_loop(lengths: list[int], execute: int, offset: int) -> None:
    horizon = execute + offset
    demonstrations = _demonstrations(lengths, 7)
    task = Task(
        name="loop",
        make_env=lambda: None,
        layout=Layout(7, horizon=horizon, execute=execute, offset=offset),
        observation_keys=("position", ("agent", "speed")),
    )
    (position, speed), chunk, mask = chunks_of(demonstrations, task)
    row = 0
    for episode, length in enumerate(lengths):
        for step in range(length):
            here = episode * 100.0 + step
            assert position[row].tolist() == [here, -here]
            assert speed[row].flatten().tolist() == [here, here]
            for index in range(horizon):
                at = step + index - offset
                assert bool(mask[row, index]) == (0 <= at < length)
                expected = episode * 100.0 + at if 0 <= at < length else 0.0
                assert float(chunk[row, index]) == expected
            row += 1
    assert row == len(chunk) == len(mask)


def test_the_clone_loads_and_its_summary_says_what_it_saw(cloned: Path) -> None:
    summary, rows = read_summary(cloned), read_rows(cloned)
    assert summary["demonstrations"] == 100
    assert summary["demonstrated_modes"] == [25] * 4
    assert [int(row["step"]) for row in rows] == [200, 250]
    assert float(rows[1]["loss"]) == pytest.approx(summary["loss"])
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    policy = plugins.resolve_policy(summary["policy"])
    assert policy.chunk_shape == (4, 2)
    assert policy.observation_keys == [keys.OBSERVATION]
    policy.requires_grad_(False)
    chunk = policy.decode(torch.randn(8, *policy.noise_shape), torch.zeros(8, 2))
    assert chunk.shape == (8, 4, 2)
    assert float(chunk.abs().max()) < 0.2


def test_demonstrations_are_kept_as_they_were_played(cloned: Path) -> None:
    """The expert's hand shook: its clean actions would not lead where it went."""
    found = load_recording(cloned / "demonstrations.safetensors")
    assert (len(found), bool(found.terminated.all())) == (100, True)
    last = found.lengths.cumsum(0) - 1
    assert torch.isin(found.rewards[last], goal_pay(0.3)).all(), "what the task's own routes pay"
    assert int(found.rewards.count_nonzero()) == 100
    place, ends = found.observations[keys.OBSERVATION], last + torch.arange(1, 101)
    moved = place.diff(dim=0)
    within = torch.ones(len(moved), dtype=torch.bool).index_fill(0, ends[:-1], False)
    torch.testing.assert_close(moved[within], found.actions.clamp(-0.08, 0.08))


def test_the_same_seed_clones_the_same_policy_and_starting_over_changes_nothing(
    tmp_path: Path,
) -> None:
    short = replace(pretrain_config(tmp_path / "a", steps=20, episodes=8))
    pretrain(short)

    def interrupt(self: Run, *args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    broken = replace(short, out=tmp_path / "b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pretrain(broken)
    assert not (tmp_path / "b" / "summary.json").exists()
    pretrain(broken)
    other = replace(short, out=tmp_path / "c", seed=1)
    pretrain(other)
    prints = [
        fingerprint(plugins.resolve_policy(str(tmp_path / name / "policy"))) for name in "abc"
    ]
    assert prints[0] == prints[1] != prints[2]
    assert (tmp_path / "a" / "curves.csv").read_text() == (
        tmp_path / "b" / "curves.csv"
    ).read_text()
    again = pretrain(short)
    assert again == json.loads((tmp_path / "a" / "summary.json").read_text())


def test_flow_matching_is_a_method(tmp_path: Path) -> None:
    summary = pretrain(pretrain_config(tmp_path / "run", method="flow", steps=120))
    policy = plugins.resolve_policy(summary["policy"])
    policy.requires_grad_(False)
    noise = torch.randn(64, *policy.noise_shape)
    chunk = policy.decode(noise, torch.zeros(64, 2))
    assert bool(torch.isfinite(chunk).all())
    # a goal may lie in any direction, so what the noise decides is where to go
    assert 0.02 < float(chunk.mean(1).std()) < 0.2


def test_the_average_of_the_weights_is_saved(tmp_path: Path) -> None:
    """With a decay of 0 the average is the last step; with a decay near 1 the first one stays."""
    found = {}
    for decay in (0.0, 0.5, 1.0):
        config = pretrain_config(tmp_path / str(decay), steps=15, episodes=8, ema=decay)
        found[decay] = plugins.resolve_policy(pretrain(config)["policy"]).state_dict()
    name = next(name for name in found[0.0] if name.endswith("weight"))
    late, middle, early = (found[decay][name] for decay in (0.0, 0.5, 1.0))
    assert float((middle - late).norm()) < float((early - late).norm())
    assert float((early - late).norm()) > 0
