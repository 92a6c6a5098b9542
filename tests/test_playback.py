"""Recorded episodes of a live environment, played back, are the decisions of the live run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tensordict import NestedKey, TensorDictBase
from torchrl.envs import EnvBase, StepCounter, TransformedEnv

from modereg import keys
from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.layout import Layout
from modereg.learners.nstep import Windows, folded, windows_within
from modereg.playback import play_back
from modereg.policies import GenerativePolicy, as_generative_policy
from modereg.recordings import Recording, make_recording
from modereg.testing import CountingEnv, TinyPolicy
from modereg.wrapping import SteeredEnv, steer_env
from tests.recorded import first_episodes, recorded

LENGTHS = [1, 3, 7, 40]
"""The last one runs out of time, the first is over at once; some end inside of a chunk."""

NESTED = ("agent", "place")


def _env(lengths: Any, layout: Layout, key: NestedKey = keys.OBSERVATION) -> EnvBase:
    env = CountingEnv(lengths, observation_key=key)
    cut = layout.time_limit == "truncates"
    return TransformedEnv(env, StepCounter(layout.max_steps)) if cut else env


def _two_steps() -> GenerativePolicy:
    return as_generative_policy(
        lambda noise, seen: noise + 0.1 * seen.flatten(-2).mean(-1)[..., None, None],
        in_keys=[keys.OBSERVATION],
        noise_shape=(6, 2),
        chunk_shape=(6, 2),
        observation_steps=2,
    )


def _live(
    policy: GenerativePolicy, layout: Layout, key: NestedKey = keys.OBSERVATION
) -> tuple[SteeredEnv, TensorDictBase, Recording]:
    """Return the environment, a run of it, and its first episodes, recorded."""
    torch.manual_seed(0)
    env = steer_env(_env(LENGTHS, layout, key), policy, 2, layout)
    batch = env.rollout(layout.max_steps, break_when_any_done=False)
    trajectories = recorded(batch, lambda row: _env(LENGTHS[row], layout, key))
    return env, batch, make_recording(trajectories, _env(LENGTHS, layout, key))


CASES = {
    "single steps": (TinyPolicy(3), Layout(12, execute=1), keys.OBSERVATION),
    "chunks": (TinyPolicy(3), Layout(12, execute=3, gamma=0.9), keys.OBSERVATION),
    "an offset": (TinyPolicy(3), Layout(12, execute=2, offset=1, gamma=0.9), keys.OBSERVATION),
    "the time ends it": (
        TinyPolicy(3),
        Layout(12, execute=4, gamma=0.9, time_limit="terminates"),
        keys.OBSERVATION,
    ),
    "a stack": (_two_steps(), Layout(12, execute=4, offset=1, gamma=0.9), keys.OBSERVATION),
    "nested": (TinyPolicy(3, observation_keys=[NESTED]), Layout(11, execute=3, gamma=0.9), NESTED),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_recorded_becomes_the_decisions_that_were_made(case: str) -> None:
    policy, layout, key = CASES[case]
    env, batch, recording = _live(policy, layout, key)
    state: list[NestedKey] = [*policy.steered_entries, *env.layout.steered_by, keys.HISTORY]
    after = [*state, keys.REWARD, keys.STEPS, "done", "terminated", keys.EXECUTED]
    read = [*state, *[("next", *([name] if isinstance(name, str) else name)) for name in after]]
    data, decisions = play_back(recording, env, policy, read)
    live = first_episodes(batch)
    assert decisions.tolist() == [len(episode) for episode in live]
    expected = torch.cat(live)
    for name in read:
        if name != ("next", keys.EXECUTED):
            torch.testing.assert_close(data[name], expected[name], msg=lambda m, n=name: f"{n} {m}")
    played = torch.arange(layout.played) < expected["next", keys.STEPS]
    chunks = data["next", keys.EXECUTED], expected["next", keys.EXECUTED]
    torch.testing.assert_close(*(chunk[played] for chunk in chunks))
    for chunk, mask in zip(chunks[0], played):
        assert bool((chunk[~mask] == chunk[mask][-1]).all()), "the last action is repeated"


@pytest.mark.parametrize("length", [2, 3, 20])
def test_returns_of_several_decisions_are_those_of_the_live_run(length: int) -> None:
    policy, layout, _ = CASES["chunks"]
    env, batch, recording = _live(policy, layout)
    rewards, gamma = ("next", keys.REWARD), layout.gamma
    read = [
        keys.OBSERVATION,
        rewards,
        ("next", keys.STEPS),
        ("next", "done"),
        ("next", "terminated"),
    ]
    data, decisions = play_back(recording, env, policy, [*read, ("next", keys.OBSERVATION)])
    found = folded(data[windows_within(decisions, length)], keys.REWARD, gamma)
    padded = torch.cat(
        [batch, batch[:, :1].expand(len(batch), length)], 1
    )  # what follows does not count
    live = folded(Windows(length).add(padded), keys.REWARD, gamma).reshape(len(batch), -1)
    expected = torch.cat([row[:count] for row, count in zip(live, decisions)])
    for name in found.keys(True, True):
        torch.testing.assert_close(found[name], expected[name])


def _simple(**changes: Any) -> Recording:
    """Return episodes of 2 and 4 actions of CountingEnv, the second of which was cut."""
    parts: dict[str, Any] = {
        "observations": {keys.OBSERVATION: torch.arange(24.0).reshape(8, 3)},
        "actions": torch.full((6, 2), 0.1),
        "rewards": torch.ones(6),
        "lengths": torch.tensor([2, 4]),
        "terminated": torch.tensor([True, False]),
    }
    return Recording(**(parts | changes))


def _read(recording: Recording, layout: Layout, **options: Any) -> TensorDictBase:
    policy = TinyPolicy(3)
    env = steer_env(CountingEnv([5, 5], **options), policy, 1, layout)
    read = [keys.OBSERVATION, keys.ELAPSED, ("next", "terminated"), ("next", keys.EXECUTED)]
    return play_back(recording, env, policy, read)[0]


def test_an_episode_that_was_cut_has_a_value_at_its_end() -> None:
    data = _read(_simple(), Layout(4, execute=2))
    assert data["next", "terminated"].flatten().tolist() == [True, False, False]


def test_where_the_limit_terminates_running_out_of_time_does() -> None:
    layout = Layout(4, execute=2, time_limit="terminates")
    data = _read(_simple(), layout)
    assert data["next", "terminated"].flatten().tolist() == [True, False, True]
    assert data[keys.ELAPSED].flatten().tolist() == [0, 0, 0.5]
    with pytest.raises(ConfigurationError, match="after 5 actions.*got 1 of 2 that were cut"):
        _read(_simple(), replace(layout, max_steps=5))


def test_actions_beyond_the_bounds_are_clipped_as_they_were_when_played() -> None:
    data = _read(_simple(actions=torch.full((6, 2), 0.8)), Layout(4, execute=2))
    assert float(data["next", keys.EXECUTED].max()) == 0.5


def test_a_chunk_is_what_was_recorded_around_its_decision() -> None:
    """With one action before it, two that are played, and one that was played afterwards."""
    env = steer_env(CountingEnv([5, 5]), TinyPolicy(3), 1, Layout(4, execute=2, offset=1))
    numbers = torch.arange(6.0)[:, None].expand(6, 2)
    read = [("next", keys.CHUNK), ("next", keys.EXECUTED)]
    data, _ = play_back(_simple(actions=numbers / 20), env, TinyPolicy(3), read)
    chunks = 20 * data["next", keys.CHUNK][..., 0]
    assert chunks.round().tolist() == [[0, 0, 1, 1], [2, 2, 3, 4], [3, 4, 5, 5]]
    assert torch.equal(data["next", keys.EXECUTED], data["next", keys.CHUNK][:, 1:3])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="of at most 3 actions.*got one of 4"):
        _read(_simple(), Layout(3, execute=1))
    with pytest.raises(KeyMismatchError, match=r"also the observations \['observation'\]"):
        _read(_simple(observations={}), Layout(4, execute=2))
    with pytest.raises(ConfigurationError, match="'action' of torch.float32.*got torch.float64"):
        _read(_simple(actions=torch.zeros(6, 2).double()), Layout(4, execute=2))
