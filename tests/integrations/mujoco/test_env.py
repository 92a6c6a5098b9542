from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs.utils import check_env_specs

from modereg.errors import ConfigurationError
from modereg_integrations.mujoco import PointMaze
from modereg_integrations.mujoco.env import route_pay
from modereg_integrations.mujoco.expert import MazeExpert
from modereg_integrations.mujoco.maze_geometry import NUM_MODES, START


def play(env: PointMaze, modes: torch.Tensor, steps: int) -> TensorDictBase:
    expert = MazeExpert(modes)

    def act(td: TensorDictBase) -> TensorDictBase:
        return td.set("action", expert(td["observation"]))

    return env.rollout(steps, act, break_when_any_done=False)


def test_specs() -> None:
    check_env_specs(PointMaze(3, seed=0))


def test_an_episode_from_start_to_goal() -> None:
    env = PointMaze(NUM_MODES, pay_spread=0.3, seed=0)
    rollout = play(env, torch.arange(NUM_MODES), 80)
    first_end = rollout["next", "done"].squeeze(-1).int().argmax(1)
    rows = torch.arange(NUM_MODES)
    last = rollout["next"][rows, first_end]
    assert last["success"].all()
    assert last["terminated"].all()
    assert last["mode"].squeeze(-1).tolist() == list(range(NUM_MODES))
    torch.testing.assert_close(
        last["reward"].squeeze(-1), torch.tensor([0.7, 1.0, 1.3] * 2), atol=1e-6, rtol=0.0
    )
    torch.testing.assert_close(last["elapsed"].squeeze(-1), (first_end + 1) / 80)
    before = [rollout["next", "reward"][row, :end].abs().sum() for row, end in enumerate(first_end)]
    assert sum(before) == 0


def test_running_out_of_time_terminates_and_rows_stay() -> None:
    env = PointMaze(2, max_steps=3, seed=0)
    root = env.reset()
    for step in range(5):
        root = env.step(root.set("action", torch.ones(2, 2)))["next"]
        assert root["terminated"].all() == (step >= 2)
        if step == 2:
            kept = root["observation"].clone()
    assert torch.equal(root["observation"], kept)
    assert root["elapsed"].eq(1).all()
    assert not root["success"].any()
    assert "truncated" not in root


def test_only_masked_rows_are_reset() -> None:
    env = PointMaze(3, seed=0)
    root = env.rollout(4)[:, -1]["next"]
    mask = torch.tensor([[False], [True], [False]])
    after = env.reset(root.clone().set("_reset", mask))
    assert torch.equal(after["observation"][[0, 2]], root["observation"][[0, 2]])
    assert after["observation"][1, :2].abs().sum() == 0
    assert (after["observation"][1, 2:] - torch.tensor(START)).abs().max() <= 0.02 + 1e-6
    assert after["elapsed"].squeeze(-1).tolist() == pytest.approx([0.05, 0.0, 0.05])


def test_what_is_returned_is_never_written_again() -> None:
    env = PointMaze(2, seed=0)
    first = env.reset()
    kept = first.clone()
    env.step(first.clone().set("action", torch.ones(2, 2)))
    env.reset(TensorDict({"_reset": torch.tensor([[True], [False]])}, [2]))
    assert (first == kept).all()


def test_a_seed_repeats_and_a_pickled_copy_goes_on_alike() -> None:
    env, twin = PointMaze(4, seed=5), PointMaze(4, seed=5)
    starts = env.reset()["observation"]
    assert torch.equal(starts, twin.reset()["observation"])
    assert len(starts.unique(dim=0)) == 4
    copy = pickle.loads(pickle.dumps(env))
    action = torch.rand(4, 2)
    seen = [one.step(TensorDict({"action": action}, [4]))["next"] for one in (env, copy)]
    assert (seen[0] == seen[1]).all()
    assert torch.equal(env.reset()["observation"], copy.reset()["observation"])


def test_routes_pay_around_one() -> None:
    assert np.allclose(route_pay(0.0), 1)
    assert route_pay(0.5).mean() == pytest.approx(1)


@pytest.mark.parametrize(
    "options", [{"num_envs": 0}, {"max_steps": 0}, {"start_noise": -1.0}, {"start_noise": 0.5}]
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="expected num_envs >= 1"):
        PointMaze(**options)
