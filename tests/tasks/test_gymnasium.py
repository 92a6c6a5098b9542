from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torchrl.envs import EnvBase
from torchrl.envs.utils import check_env_specs

from modereg.errors import ConfigurationError
from modereg.tasks import GymnasiumEnv, gymnasium_task


class Corridor(gymnasium.Env):
    """Ends after ``length`` steps; counts its steps, and says how it went in the info."""

    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    observation_space = spaces.Dict(
        {
            "count": spaces.Box(0.0, 100.0, (1,), np.float64),
            "camera": spaces.Box(0, 255, (2, 2, 3), np.uint8),
            "robot": spaces.Dict({"joint": spaces.Box(-np.inf, np.inf, (3,), np.float32)}),
        }
    )

    def __init__(self, length: int = 3, info: str = "is_success") -> None:
        self.length, self.info = length, info

    def _observation(self) -> dict[str, Any]:
        return {
            "count": np.array([self.count], np.float64),
            "camera": np.full((2, 2, 3), self.count, np.uint8),
            "robot": {"joint": np.full(3, -self.count, np.float32)},
        }

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.count = int(self.np_random.integers(0, 2)) * 10
        self.steps = 0
        return self._observation(), {self.info: False}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        assert self.steps < self.length, "stepped after its end"
        assert self.action_space.contains(action)
        self.count, self.steps = self.count + 1, self.steps + 1
        done = self.steps == self.length
        info = {self.info: done, "mode": int(action[0] > 0) if done else -1}
        return self._observation(), float(self.steps), done, False, info


def corridor(lengths: list[int], **options: Any) -> GymnasiumEnv:
    remaining = iter(lengths)
    return GymnasiumEnv(lambda: Corridor(next(remaining)), len(lengths), **options)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "MountainCarContinuous-v0"])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_specs_hold(env_id: str, num_envs: int) -> None:
    task = gymnasium_task(env_id)
    env = task.make_env(num_envs, device="cpu")
    check_env_specs(env)
    assert task.observation_keys == ("observation",)
    assert task.layout.time_limit == "truncates"
    env.close()


def test_specs_hold_for_a_dict_of_observations() -> None:
    env = corridor([3, 2], success_key="is_success", mode_key="mode", num_modes=2)
    check_env_specs(env)
    spec = env.observation_spec
    assert spec["count"].dtype == torch.float32
    assert spec["camera"].dtype == torch.uint8
    assert spec["robot", "joint"].shape == (2, 3)


def test_an_episode_equals_gymnasiums_own_loop() -> None:
    env = gymnasium_task("Pendulum-v1", max_steps=7).make_env(2, seed=3)
    rollout = env.rollout(20)
    assert rollout.shape[1] == 7
    seeds = np.random.SeedSequence(3).generate_state(2)
    for index in range(2):
        single = gymnasium.make("Pendulum-v1", max_episode_steps=7)
        observation, _ = single.reset(seed=int(seeds[index]))
        for step in rollout[index]:
            np.testing.assert_array_equal(step["observation"], observation)
            observation, reward, terminated, truncated, _ = single.step(step["action"].numpy())
            np.testing.assert_array_equal(step["next", "observation"], observation)
            assert step["next", "reward"].item() == np.float32(reward)
            assert step["next", "terminated"].item() == terminated
            assert step["next", "truncated"].item() == truncated
        assert truncated


def test_the_last_observation_is_the_true_one_and_the_next_episode_starts_afresh() -> None:
    env = corridor([2, 3], seed=0)
    rollout = env.rollout(7, break_when_any_done=False)
    count, after = rollout["count"].squeeze(-1), rollout["next", "count"].squeeze(-1)
    done = rollout["next", "done"].squeeze(-1)
    assert torch.equal(after, count + 1)
    for row, length in zip(range(2), (2, 3), strict=True):
        assert done[row].nonzero().flatten().tolist() == list(range(length - 1, 7, length))
        starts = count[row, ::length]
        assert set(starts.tolist()) <= {0.0, 10.0}


def test_an_ended_environment_is_not_stepped_before_its_reset() -> None:
    env = corridor([1, 4], success_key="is_success", mode_key="mode", num_modes=2)
    root = env.reset()
    action = torch.tensor([[0.5, 0.0], [-0.5, 0.0]])
    first = env.step(root.set("action", action))["next"]
    root = env.step(first.clone().set("action", action))["next"]
    assert first["reward"].tolist() == [[1.0], [1.0]]
    assert root["reward"].tolist() == [[0.0], [2.0]]
    for key in ("count", "done", "success", "mode", ("robot", "joint")):
        assert torch.equal(root[key][0], first[key][0])
    assert root["mode"].tolist() == [[1], [-1]]
    assert root["success"].tolist() == [[True], [False]]
    fresh = env.reset(root.clone().set("_reset", torch.tensor([[True], [False]])))
    assert fresh["done"].tolist() == [[False], [False]]
    assert fresh["mode"].tolist() == [[-1], [-1]]
    assert fresh["count"][1] == root["count"][1]


def test_seeds_reproduce() -> None:
    def starts(env: EnvBase) -> torch.Tensor:
        return torch.stack([env.reset()["observation"] for _ in range(3)])

    env = gymnasium_task("Pendulum-v1").make_env(2, seed=1)
    first = starts(env)
    env.set_seed(1)
    assert torch.equal(first, starts(env))
    assert not torch.equal(first[0, 0], first[0, 1])
    assert not torch.equal(first[0], first[1])
    env.set_seed(2)
    assert not torch.equal(first, starts(env))


def test_observations_handed_out_never_change_later() -> None:
    env = gymnasium_task("Pendulum-v1").make_env(2)
    root = env.reset()
    kept = root.clone()
    env.step(root.clone().set("action", torch.ones(2, 1)))
    env.reset()
    assert (root == kept).all()


@pytest.fixture
def registered() -> str:
    gymnasium.register("test/Corridor-v0", Corridor, max_episode_steps=20)
    yield "test/Corridor-v0"
    del gymnasium.registry["test/Corridor-v0"]


def test_labels_are_found_in_the_info(registered: str) -> None:
    task = gymnasium_task(registered, num_modes=2, length=4)
    assert task.observation_keys == ("camera", "count", ("robot", "joint"))
    rollout = task.make_env(1).rollout(10)
    assert rollout["next", "success"].flatten().tolist() == [False, False, False, True]
    assert rollout["next", "mode"].flatten()[-1] in (0, 1)
    named = gymnasium_task(registered, info="solved", success_key="solved").make_env(1)
    assert named.rollout(10)["next", "success"].sum() == 1


def test_without_labels_there_are_none() -> None:
    env = gymnasium_task("Pendulum-v1").make_env(1)
    assert set(env.observation_spec.keys()) == {"observation"}


class Unbounded(Corridor):
    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Matrix(Corridor):
    action_space = spaces.Box(-1, 1, (2, 2), np.float32)


class Text(Corridor):
    observation_space = spaces.Dict({"task": spaces.Text(5)})


def test_unbounded_actions() -> None:
    env = GymnasiumEnv(Unbounded, 2)
    assert env.action_spec.shape == (2, 2)
    assert env.action_spec.is_in(torch.full((2, 2), 1e9))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (partial(gymnasium.make, "CartPole-v1"), "continuous actions.*Discrete"),
        (Matrix, r"shape \[A\]"),
        (Text, r"at task; wrap the environment in gymnasium\.wrappers\.FlattenObservation"),
    ],
)
def test_spaces_that_cannot_be_steered_are_refused(make: Any, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        GymnasiumEnv(make)


def test_discrete_actions_are_refused_when_the_task_is_made() -> None:
    with pytest.raises(ConfigurationError, match="continuous actions"):
        gymnasium_task("CartPole-v1")


def test_an_unknown_id_is_answered_with_a_suggestion() -> None:
    with pytest.raises(ConfigurationError, match="Pendulum"):
        gymnasium_task("Pendlum-v1")


def test_no_time_limit() -> None:
    gymnasium.register("test/Endless-v0", Corridor)
    try:
        with pytest.raises(ConfigurationError, match="pass max_steps"):
            gymnasium_task("test/Endless-v0")
        assert gymnasium_task("test/Endless-v0", max_steps=2).layout.max_steps == 2
    finally:
        del gymnasium.registry["test/Endless-v0"]
