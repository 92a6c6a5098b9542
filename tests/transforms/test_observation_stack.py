"""ObservationStack against the list of what has been seen, and a policy that reads it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs import TransformedEnv

from modereg import keys
from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.layout import Layout
from modereg.policies import GenerativePolicy, as_generative_policy
from modereg.testing import CountingEnv, check_transform
from modereg.transforms import ActionChunk, ObservationStack
from modereg.wrapping import steer_env

STACK = keys.stacked("observation")


class TwoSteps(GenerativePolicy):
    """Adds what the last two observations say of the speed."""

    observation_steps = 2

    def __init__(self) -> None:
        super().__init__(observation_keys=["observation"], noise_shape=(3, 2), chunk_shape=(3, 2))

    def decode(self, noise: Tensor, observation: Tensor) -> Tensor:
        assert observation.shape[noise.ndim - 2] == 2
        speed = observation[..., 1, :1] - observation[..., 0, :1]
        return noise + speed[..., None, :]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 3))
def test_the_stack_holds_the_latest_environment_steps(
    lengths: list[int], steps: int, execute: int
) -> None:
    env = TransformedEnv(CountingEnv(lengths), ObservationStack(steps=steps))
    env.append_transform(ActionChunk(execute))
    data = env.rollout(8, break_when_any_done=False)
    count = data["next", "observation"][..., 0]
    for back in range(steps):
        seen = data["next", STACK][..., steps - 1 - back, 0]
        torch.testing.assert_close(seen, (count - back).clamp(min=0))
    assert torch.equal(data[STACK][..., -1, :], data["observation"])


def test_the_battery_of_transforms() -> None:
    check_transform(lambda: ObservationStack(steps=3))


def test_a_policy_of_two_observations_reads_them_in_a_steered_environment() -> None:
    env = steer_env(CountingEnv([9, 9]), TwoSteps(), 2, Layout(9, execute=3))
    data = env.rollout(3)
    speed = torch.tensor([0.0, 1.0, 1.0])[:, None, None]
    expected = data["action"][0] + speed
    torch.testing.assert_close(data["next", keys.CHUNK][0], expected)


def test_a_function_may_take_two_observations() -> None:
    shapes = {"in_keys": ["observation"], "noise_shape": (3, 2), "chunk_shape": (3, 2)}
    policy = as_generative_policy(TwoSteps().decode, observation_steps=2, **shapes)
    env = steer_env(CountingEnv([9, 9]), policy, 2, Layout(9, execute=3))
    assert env.rollout(3)[STACK].shape == (2, 3, 2, 3)
    with pytest.raises(ConfigurationError, match="observation_steps of at least 1, got 0"):
        as_generative_policy(TwoSteps().decode, observation_steps=0, **shapes)


def test_a_policy_reads_its_entries_where_nothing_is_stacked() -> None:
    entries = TensorDict(observation=torch.tensor([[[0.0], [2.0]]]), batch_size=1)
    chunk = TwoSteps().decode_from(entries, torch.zeros(1, 3, 2))
    assert torch.equal(chunk, torch.full((1, 3, 2), 2.0))


def test_stacks_of_nested_entries_are_nested() -> None:
    assert keys.stacked(("agent", "position")) == (keys.STACKED, "agent", "position")


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one step"):
        ObservationStack(steps=0)
    with pytest.raises(KeyMismatchError, match="'velocity'"):
        TransformedEnv(CountingEnv([3]), ObservationStack(["velocity"], steps=2))
