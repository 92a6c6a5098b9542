from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium.utils.env_checker import check_env
from tensordict import TensorDict

from modereg_integrations.mujoco import PointMaze, PointMazeGym
from modereg_integrations.mujoco.expert import MazeExpert

ENV_ID = "modereg_integrations.mujoco:ModeregPointMaze-v0"


def test_gymnasium_agrees_with_the_interface() -> None:
    check_env(PointMazeGym(), skip_render_check=True)


def test_the_registered_limit_truncates() -> None:
    env = gymnasium.make(ENV_ID)
    env.reset(seed=0)
    for step in range(80):
        _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        assert (reward, terminated, truncated) == (0, False, step == 79)
    assert info == {"success": False, "mode": -1}


def test_one_by_mj_step_and_the_batch_by_rollout_do_the_same() -> None:
    """The whole episode of an expert, so with all of its contacts and its label."""
    single, batch = gymnasium.make(ENV_ID, start_noise=0.0), PointMaze(1, start_noise=0.0)
    for mode in (0, 5):
        expert = MazeExpert(torch.tensor([mode]))
        observation, _ = single.reset(seed=0)
        root, done = batch.reset(), False
        generator = torch.Generator().manual_seed(mode)
        while not done:
            clean = expert(torch.from_numpy(observation)[None])
            action = (clean + 0.5 * torch.randn(1, 2, generator=generator)).clamp(-1, 1)
            observation, reward, terminated, truncated, info = single.step(action[0].numpy())
            root = batch.step(TensorDict({"action": action}, [1]))["next"]
            done = terminated or truncated
            np.testing.assert_allclose(root["observation"][0], observation, atol=1e-4)
            assert info["mode"] == root["mode"].item()
            assert bool(root["done"]) == done
        assert info == {"success": True, "mode": mode}
        assert reward == root["reward"].item() == 1
