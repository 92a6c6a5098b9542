"""The batched GPU form by its API, on a stand-in that reuses its buffers as physx_cuda does."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import check_env_specs

from modereg_integrations.maniskill import ManiSkillEnv, env


class BufferedSimulation:
    """Position plus action; success beyond 1. Every tensor it returns is its own buffer."""

    single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    single_action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    device = torch.device("cpu")

    def __init__(self, num_envs: int) -> None:
        self.position = torch.zeros(num_envs, 2)
        self.success = torch.zeros(num_envs, dtype=torch.bool)
        self.mode = torch.full((num_envs,), -1)
        self.calls: list[tuple[list[int], Any]] = []
        self.num_steps = 0

    def get_info(self) -> dict[str, Tensor]:
        self.success.copy_(self.position[:, 0] > 1)
        self.mode.copy_(torch.where(self.success, 1, -1))
        return {"success": self.success, "mode": self.mode}

    def reset(self, seed: list[int], options: dict[str, Tensor]) -> tuple[Tensor, dict]:
        self.calls.append((seed, options.get("env_idx")))
        rows = options.get("env_idx", torch.arange(len(self.position)))
        generator = torch.Generator().manual_seed(seed[0])  # as ManiSkill does on a GPU
        self.position[rows] = torch.rand(len(rows), 2, generator=generator) - 1
        return self.position, self.get_info()

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict]:
        self.num_steps += 1
        self.position += action
        info = self.get_info()
        return self.position, self.success, self.success, torch.zeros_like(self.success), info

    def close(self) -> None:
        self.position = torch.zeros(0, 2)


@pytest.fixture
def batched(monkeypatch: pytest.MonkeyPatch) -> ManiSkillEnv:
    def make(env_id: str, width: int, options: dict[str, Any]) -> BufferedSimulation:
        assert options["sim_backend"] == "physx_cuda"
        return BufferedSimulation(width)

    monkeypatch.setattr(env, "_make_simulation", make)
    return ManiSkillEnv("Any-v1", 3, sim_backend="physx_cuda", max_steps=None, seed=0)


def advance(env: ManiSkillEnv, td: TensorDict, x: list[float]) -> TensorDict:
    action = torch.stack([torch.tensor(x), torch.zeros(3)], -1)
    return env.step(td.copy().set("action", action))["next"]


def test_specs(batched: ManiSkillEnv) -> None:
    check_env_specs(batched)
    assert len(batched._sims) == 1


def test_nothing_returned_is_a_buffer(batched: ManiSkillEnv) -> None:
    first = batched.reset()
    kept = first.clone()
    second = advance(batched, first, [0.1, 0.2, 0.3])
    kept_second = second.clone()
    advance(batched, second, [2.0, 2.0, 2.0])
    assert (first == kept).all()
    assert (second == kept_second).all()
    moved = second["observation"][:, 0] - first["observation"][:, 0]
    torch.testing.assert_close(moved, torch.tensor([0.1, 0.2, 0.3]))


def test_partial_resets_name_their_rows_and_draw_fresh_states(batched: ManiSkillEnv) -> None:
    calls = batched._sims[0].calls
    td = advance(batched, batched.reset(), [0.1, 0.1, 0.1])
    starts = []
    for _ in range(2):
        mask = torch.tensor([[False], [True], [True]])
        after = batched.reset(td.copy().set("_reset", mask))
        assert calls[-1][1].tolist() == [1, 2]
        assert len(calls[-1][0]) == 3
        assert torch.equal(after["observation"][0], td["observation"][0])
        starts.append(after["observation"][1:])
    assert not torch.equal(*starts)


def test_the_seeds_repeat(batched: ManiSkillEnv) -> None:
    drawn = []
    for seed in (4, 4, 5):
        batched.set_seed(seed)
        batched.reset()
        drawn.append(batched._sims[0].calls[-1][0])
    assert drawn[0] == drawn[1] != drawn[2]


def test_done_rows_stand_still_while_others_move(batched: ManiSkillEnv) -> None:
    td = advance(batched, batched.reset(), [5.0, 0.0, 0.0])
    assert td["done"].view(-1).tolist() == [True, False, False]
    assert td["mode"].view(-1).tolist() == [1, -1, -1]
    assert td["reward"].view(-1).tolist() == [1.0, 0.0, 0.0]
    following = advance(batched, td, [5.0, 0.5, 0.5])
    assert torch.equal(following["observation"][0], td["observation"][0])
    assert following["done"].view(-1).tolist() == [True, False, False]
    assert following["reward"].sum() == 0
    moved = following["observation"][1:, 0] - td["observation"][1:, 0]
    torch.testing.assert_close(moved, torch.tensor([0.5, 0.5]))


def test_where_all_are_done_nothing_is_simulated(batched: ManiSkillEnv) -> None:
    td = advance(batched, batched.reset(), [5.0, 5.0, 5.0])
    steps = batched._sims[0].num_steps
    assert advance(batched, td, [5.0, 5.0, 5.0])["done"].all()
    assert batched._sims[0].num_steps == steps
