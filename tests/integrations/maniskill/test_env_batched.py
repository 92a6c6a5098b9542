"""The batched GPU form by its API, on a stand-in that reuses its buffers as physx_cuda does."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, Transform, TransformedEnv
from torchrl.envs.utils import check_env_specs

from modereg.testing import check_transform
from modereg.transforms import ActionChunk, TimeLimit
from modereg_integrations.maniskill import ManiSkillEnv, env


class BufferedSimulation:
    """Position plus action; success beyond 1. Every tensor it returns is its own buffer."""

    single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    single_action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    device = torch.device("cpu")

    def __init__(self, num_envs: int) -> None:
        self.position = torch.zeros(num_envs, 2)
        self.picture = torch.zeros(num_envs, 4, 6, 3, dtype=torch.uint8)
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
        assert rows.dtype == torch.int64
        assert rows.device == self.device
        generator = torch.Generator().manual_seed(seed[0])  # as ManiSkill does on a GPU
        self.position[rows] = torch.rand(len(rows), 2, generator=generator) - 1
        return self.position, self.get_info()

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict]:
        self.num_steps += 1
        self.position += action
        info = self.get_info()
        return self.position, self.success, self.success, torch.zeros_like(self.success), info

    def render_rgb_array(self) -> Tensor:
        self.picture[:] = (self.position[:, :1, None, None] + 2).clamp(0, 5) * 50
        return self.picture

    def close(self) -> None:
        self.position = torch.zeros(0, 2)


class NestedSimulation(BufferedSimulation):
    """The same, with an observation of nested boxes."""

    single_observation_space = gymnasium.spaces.Dict(
        agent=gymnasium.spaces.Dict(position=BufferedSimulation.single_observation_space)
    )

    def reset(self, seed: list[int], options: dict[str, Tensor]) -> tuple[Any, dict]:
        position, info = super().reset(seed, options)
        return {"agent": {"position": position}}, info

    def step(self, action: Tensor) -> tuple[Any, Tensor, Tensor, Tensor, dict]:
        position, *rest = super().step(action)
        return {"agent": {"position": position}}, *rest


def make(**options: Any) -> ManiSkillEnv:
    given = {"num_envs": 3, "sim_backend": "physx_cuda", "max_steps": None, "seed": 0}
    return ManiSkillEnv("Any-v1", **(given | options))


@pytest.fixture(autouse=True)
def simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_one(env_id: str, width: int, options: dict[str, Any]) -> BufferedSimulation:
        assert options["sim_backend"] == "physx_cuda"
        nested = options.get("obs_mode") == "state_dict"
        return NestedSimulation(width) if nested else BufferedSimulation(width)

    monkeypatch.setattr(env, "make_simulation", open_one)


@pytest.fixture
def batched() -> ManiSkillEnv:
    return make()


def advance(env: EnvBase, td: TensorDict, x: list[float]) -> TensorDict:
    action = torch.stack([torch.tensor(x), torch.zeros(len(x))], -1)
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


@pytest.mark.parametrize("num_envs", [1, 3])
def test_specs_of_nested_observations(num_envs: int) -> None:
    nested = make(num_envs=num_envs, obs_mode="state_dict")
    check_env_specs(nested)
    key = ("observation", "agent", "position")
    assert nested.reset()[key].shape == (num_envs, 2)
    first = nested.reset()
    kept = first[key].clone()
    advance(nested, first, [0.5] * num_envs)
    assert torch.equal(first[key], kept)


def test_what_was_returned_may_be_overwritten(batched: ManiSkillEnv) -> None:
    td = advance(batched, batched.reset(), [5.0, 0.0, 0.0])
    expected = td.clone()
    for value in td.values():
        value.zero_()
    following = advance(batched, td, [0.0, 0.0, 0.0])
    assert torch.equal(following["observation"], expected["observation"])
    assert following["done"].view(-1).tolist() == [True, False, False]


def test_the_end_of_an_episode_is_kept_and_not_reset_by_itself(batched: ManiSkillEnv) -> None:
    root, td = batched.reset(), None
    root["action"] = torch.tensor([[5.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    td, after = batched.step_and_maybe_reset(root)
    ends = td["next", "observation"]
    assert ends[0, 0] > 1
    assert -1 <= after["observation"][0, 0] < 0  # a fresh start
    assert torch.equal(after["observation"][1:], ends[1:])
    assert batched._sims[0].calls[-1][1].tolist() == [0]
    assert len(batched._sims[0].calls) == 2  # nothing else was reset


def test_the_time_limit_counts_for_each_row_from_its_reset() -> None:
    limited = make(max_steps=3)
    td = advance(limited, limited.reset(), [0.0, 0.0, 0.0])
    td = limited.reset(td.copy().set("_reset", torch.tensor([[True], [False], [False]])))
    ends = []
    for _ in range(3):
        td = advance(limited, td, [0.0, 0.0, 0.0])
        ends.append(td["truncated"].view(-1).tolist())
    assert ends == [[False] * 3, [False, True, True], [True] * 3]
    assert not td["terminated"].any()


def test_a_partial_reset_may_name_no_row(batched: ManiSkillEnv) -> None:
    td = advance(batched, batched.reset(), [0.1, 0.2, 0.3])
    calls = len(batched._sims[0].calls)
    after = batched.reset(td.copy().set("_reset", torch.zeros(3, 1, dtype=torch.bool)))
    assert torch.equal(after["observation"], td["observation"])
    assert len(batched._sims[0].calls) == calls


def test_the_battery_of_transforms_over_it() -> None:
    def chain() -> list[Transform]:
        return [TimeLimit(4, "truncates"), ActionChunk(2)]

    check_transform(chain, make_env=make, contexts=("batched", "composed", "serial_outside"))


def test_a_collector_gathers_whole_episodes(batched: ManiSkillEnv) -> None:
    limited = TransformedEnv(batched, TimeLimit(5, "truncates"))
    data = torch.cat(list(Collector(limited, frames_per_batch=30, total_frames=60)), -1)
    assert data.shape == (3, 20)
    ends = data["next", "done"].squeeze(-1)
    assert ends.any(-1).all()
    assert (data["observation"][:, 1:][ends[:, :-1]] < 0).all()
    moved = data["next", "observation"] - data["observation"]
    torch.testing.assert_close(moved, data["action"])


def test_pictures_are_copies_of_a_buffer(batched: ManiSkillEnv) -> None:
    td = batched.reset()
    first = batched.render_frames()
    kept = first.clone()
    advance(batched, td, [1.0, 1.0, 1.0])
    second = batched.render_frames()
    assert first.shape == (3, 4, 6, 3)
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)
