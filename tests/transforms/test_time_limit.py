"""TimeLimit: where episodes end and how."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torchrl.envs import GymWrapper, TransformedEnv

from modereg.errors import ConfigurationError
from modereg.testing import CountingEnv, counting_gym
from modereg.transforms import TimeLimit


@pytest.mark.parametrize("mode", ["terminates", "truncates"])
def test_episodes_end_at_the_limit(mode: str):
    env = TransformedEnv(CountingEnv([3, 9, 4]), TimeLimit(4, mode))
    data = env.rollout(8, break_when_any_done=False)["next"]
    assert data["elapsed"][1].squeeze(-1).tolist() == [0.25, 0.5, 0.75, 1.0] * 2
    assert data["done"][:, :4, 0].sum(1).tolist() == [1, 1, 1]
    own = torch.tensor([True, False, True])  # ended by themselves, the last one at the limit
    at = torch.tensor([2, 3, 3])
    terminated = data["terminated"][torch.arange(3), at, 0]
    if mode == "terminates":
        assert terminated.all()
        assert "truncated" not in data
    else:
        assert torch.equal(terminated, own)
        assert torch.equal(data["truncated"][torch.arange(3), at, 0], ~own)


@pytest.mark.parametrize("steps", [7, 49, 250, 1000])
def test_the_count_survives_its_storage_as_a_share(steps: int):
    env = TransformedEnv(CountingEnv([10_000]), TimeLimit(steps, "truncates"))
    assert env.rollout(2 * steps).shape[-1] == steps


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ConfigurationError, match="at least one step"):
        TimeLimit(0, "terminates")
    with pytest.raises(ConfigurationError, match="'terminates' or 'truncates'"):
        TimeLimit(3, "ends")
    env = TransformedEnv(CountingEnv([3]), TimeLimit(3, "terminates"))
    with pytest.raises(ConfigurationError, match="give TimeLimit another elapsed_key"):
        env.append_transform(TimeLimit(3, "terminates"))


def test_a_vector_environment_that_resets_itself_is_refused():
    makers = [partial(counting_gym, 3)] * 2
    env = GymWrapper(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    with pytest.raises(ConfigurationError, match=r"gymnasium\.wrappers\.TimeLimit"):
        env.append_transform(TimeLimit(2, "truncates"))
