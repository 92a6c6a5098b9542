from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDictBase
from torchrl.envs.utils import check_env_specs

from modereg.errors import ConfigurationError
from modereg_integrations.mujoco import FrankaKitchen
from modereg_integrations.mujoco.kitchen.env import order_pay, watched
from modereg_integrations.mujoco.kitchen.simulation import START
from modereg_integrations.mujoco.kitchen.subtasks import GOALS

KETTLE, LIGHT, SLIDE = (GOALS[name] for name in ("kettle", "light switch", "slide cabinet"))


def rest(env: FrankaKitchen, root: TensorDictBase, *goals: Any, row: int = 0) -> TensorDictBase:
    """Step with the objects of a row put at goals, and no velocity commanded."""
    qpos = np.array(START)
    for index, goal in goals:
        qpos[list(index)] = goal
    env.states[row] = env.physics.start(qpos)
    return env.step(root.set("action", torch.zeros(len(root), 9)))["next"]


def test_specs() -> None:
    check_env_specs(FrankaKitchen(2, seed=0))


def test_the_observation_has_joints_objects_and_the_hand() -> None:
    env = FrankaKitchen(1, subtasks=4, seed=0)
    seen = env.reset()["observation"][0].numpy()
    assert watched(4) == [23, 24, 25, 17, 18, 19, 22]
    np.testing.assert_allclose(seen[:9], START[:9], atol=1e-3)
    np.testing.assert_allclose(seen[9:16], np.array(START)[watched(4)], atol=1e-3)
    np.testing.assert_allclose(seen[16:], env.physics.hand(), atol=1e-6)


def test_an_episode_ends_when_each_subtask_has_been_complete_at_any_time() -> None:
    env = FrankaKitchen(2, pay_spread=0.5, seed=0)
    root = rest(env, env.reset(), LIGHT)
    assert (root["mode"][0], root["success"][0], root["reward"][0]) == (-1, False, 0)
    root = rest(env, root, KETTLE)  # the light is off again: it has been on
    assert (root["mode"][0], root["success"][0], root["reward"][0]) == (2, False, 0)
    root = rest(env, root, SLIDE)
    assert root["mode"].flatten().tolist() == [2, -1]
    assert root["success"].flatten().tolist() == root["done"].flatten().tolist() == [True, False]
    assert root["reward"].flatten().tolist() == pytest.approx([order_pay(3, 0.5)[2], 0])
    kept = root["observation"].clone()
    root = env.step(root.set("action", torch.ones(2, 9)))["next"]
    assert torch.equal(root["observation"][0], kept[0])
    assert not torch.equal(root["observation"][1], kept[1])
    assert root["reward"].flatten().tolist() == [0, 0]
    assert root["elapsed"].flatten().tolist() == pytest.approx([3 / 280, 4 / 280])


def test_each_subtask_pays_where_it_is_asked_for() -> None:
    env = FrankaKitchen(1, subtasks=3, pay_spread=0.5, subtask_reward=True, seed=0)
    root = rest(env, env.reset())
    assert root["reward"].item() == 0
    root = rest(env, root, KETTLE)
    assert root["reward"].item() == 1
    root = rest(env, root, LIGHT, SLIDE)
    assert root["reward"].item() == pytest.approx(1 + 1.5)
    assert root["mode"].item() == 0


def test_running_out_of_time_fails() -> None:
    env = FrankaKitchen(1, max_steps=2, seed=0)
    root = rest(env, env.reset())
    assert not root["done"].item()
    root = rest(env, root)
    assert root["terminated"].item()
    assert not root["success"].item()


def test_rows_have_sensors_of_their_own_and_a_seed_repeats() -> None:
    env, twin = FrankaKitchen(2, seed=4), FrankaKitchen(2, seed=4)
    first = env.reset()["observation"]
    assert torch.equal(first, twin.reset()["observation"])
    assert not torch.equal(first[0], first[1])
    env.reset(env.fake_tensordict().select().set("_reset", torch.tensor([[True], [False]])))
    action = torch.full((2, 9), 0.3)
    seen = [
        one.step(one.full_action_spec.zero().set("action", action))["next", "observation"]
        for one in (env, twin)
    ]
    assert torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[0][0], seen[1][0])


def test_orders_pay_around_one() -> None:
    assert order_pay(3, 0.3).tolist() == pytest.approx([1.3, 1.18, 1.06, 0.94, 0.82, 0.7])
    assert order_pay(4, 0.0).tolist() == [1.0] * 24


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"subtasks": 5}, "expected 2, 3 or 4 subtasks of kettle.* got 5"),
        ({"num_envs": 0}, "expected num_envs >= 1"),
        ({"max_steps": 0}, "max_steps >= 1"),
    ],
)
def test_options_out_of_range(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        FrankaKitchen(**options)  # type: ignore[arg-type]
