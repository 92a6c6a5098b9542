from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modereg import keys, plugins
from modereg.ddiffpg.options import DDiffPGOptions
from modereg.errors import ConfigurationError
from modereg.recipes.config import FromScratchConfig, TaskConfig, from_yaml, to_yaml
from modereg.recipes.events import Advanced, drain
from modereg.recipes.follow import follow, from_scratch
from modereg.recipes.from_scratch import make, mode_hits
from modereg.recipes.setup import set_up
from tests.recipes.conftest import QUIET, read_rows, read_summary

TASK = TaskConfig("task:gaussian_mixture", {"pay_spread": 0.0}, num_envs=64)


def _config(out: Path, **changes: Any) -> FromScratchConfig:
    tiny = FromScratchConfig(
        out=out, task=TASK, learning=DDiffPGOptions(batch=64, climb_steps=2), env_steps=12_000,
        prefill=4, updates=4, cluster_every=2, hidden=(32, 32), critic_hidden=(32, 32),
        inference_steps=3, embedding_dim=4, eval_every=2, eval_episodes=32, final_episodes=64,
        log=QUIET,
    )  # fmt: skip
    return replace(tiny, **changes)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scratch") / "run"
    from_scratch(_config(out))
    return out


def test_what_is_saved_commands_and_without_commands_is_a_base_as_any_other(learned: Path) -> None:
    summary = read_summary(learned)
    embeddings = load_file(learned / "modes.safetensors")["embeddings"]
    assert embeddings.shape == (summary["modes"], 4)
    told = plugins.resolve_policy(str(learned / "commanded"))
    free = plugins.resolve_policy(summary["policy"])
    assert told.observation_keys == [keys.OBSERVATION, keys.MODE_EMBEDDING]
    assert free.observation_keys == [keys.OBSERVATION]
    noise, place = torch.randn(5, 4, 2), torch.rand(5, 2)
    expected = told.decode(noise, place, torch.zeros(5, 4))
    torch.testing.assert_close(free.decode(noise, place), expected, atol=1e-5, rtol=1e-4)
    env = set_up(TASK, summary["policy"]).steered(2)
    assert env.rollout(2).shape == (64, 2)


def test_success_never_stands_without_its_modes(learned: Path) -> None:
    summary, rows = read_summary(learned), read_rows(learned)
    for figures in (summary["sampled"], summary["commanded"]):
        assert {"success", "entropy", "present_modes", "commandable_modes"} <= set(figures)
    assert len(summary["hits"]) == summary["modes"] >= 1
    for row in rows:
        assert {"env_steps", "modes"} <= set(row)
        assert ("success" in row) == ("present_modes" in row)
    assert [int(row["iteration"]) for row in rows] == list(range(len(rows)))


def test_an_interrupted_run_ends_with_the_same_bytes(learned: Path, tmp_path: Path) -> None:
    events = follow(_config(tmp_path / "again"))
    for event in events:
        if isinstance(event, Advanced) and event.state is not None:
            break
    events.close()
    from_scratch(_config(tmp_path / "again", resume=True))
    for name in ("curves.csv", "modes.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (learned / name).read_bytes()
    paths = [folder / "policy" for folder in (learned, tmp_path / "again")]
    prints = {plugins.resolve_policy(str(path)).fingerprint() for path in paths}
    assert len(prints) == 1


def test_a_budget_for_random_episodes_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="lower prefill or task.num_envs"):
        from_scratch(_config(tmp_path / "run", env_steps=100, prefill=1))


def test_hits_are_of_the_mode_that_a_command_shows_most() -> None:
    figures = {
        "episodes": 40,
        "code_shares": [0.25, 0.75],
        "code_mode_table": [[9, 1, 0], [0, 3, 15]],
    }
    assert mode_hits(figures) == [0.9, 0.5]


def test_options_come_back_and_bad_ones_are_refused() -> None:
    config = FromScratchConfig(learning=DDiffPGOptions(explore=0.2), clusters="one")
    assert from_yaml(FromScratchConfig, to_yaml(config)) == config
    with pytest.raises(ConfigurationError, match="expected updates of at least 0"):
        FromScratchConfig(updates=-1)
    with pytest.raises(ConfigurationError, match="task without gamma, which nothing here reads"):
        FromScratchConfig(task=TaskConfig(gamma=0.9))
    with pytest.raises(ConfigurationError, match="cannot be commanded"):
        DDiffPGOptions(dropout=1.0)
    with pytest.raises(ConfigurationError, match="expected explore in"):
        DDiffPGOptions(explore=1.5)


def test_more_modes_than_rows_are_all_judged(tmp_path: Path) -> None:
    config = _config(tmp_path / "run", task=replace(TASK, num_envs=4))
    learner, judge = make(config)
    learner.prefill(1)
    embeddings = torch.randn(6, 4)
    played = drain(judge.play(learner, embeddings, 12, 0))
    assert torch.bincount(played[1]).tolist() == [2] * 6
    assert len(played[0]) == 12
