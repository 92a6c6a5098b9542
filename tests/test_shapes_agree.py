"""The environment-side and the policy-side shape are one thing: same seeds, same trajectories."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tensordict.nn import TensorDictSequential
from torchrl.envs import Compose, EnvBase, GymWrapper, SerialEnv, TransformedEnv

from modereg import keys
from modereg.steering import SteeringPolicy
from modereg.tasks.gaussian_mixture import GaussianMixture
from modereg.testing import CountingEnv, TinyPolicy, counting_gym
from modereg.transforms import ActionChunk, LatentConditioner, NoiseAction

CHUNK, CODES = (4, 2), 3


def gym(length: int) -> EnvBase:
    return GymWrapper(counting_gym(length))


ENVIRONMENTS = {
    "counting": (partial(CountingEnv, [3, 7, 4], start_noise=1.0), 3),
    "task": (partial(GaussianMixture, 8, seed=1), 2),
    "gymnasium": (lambda: SerialEnv(2, [partial(gym, 3), partial(gym, 7)]), 3),
}


def steering(observation_dim: int, action_key: str) -> SteeringPolicy:
    torch.manual_seed(7)
    policy = SteeringPolicy(
        ["observation"], observation_dim, CODES, CHUNK, hidden=(16,), action_key=action_key
    )
    with torch.no_grad():  # away from the base policy, and not the same for all codes
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_same_seeds_same_trajectories(name: str):
    make_env, observation_dim = ENVIRONMENTS[name]
    outer = [ActionChunk(CHUNK[0], gamma=0.9)]
    noisy = TransformedEnv(
        make_env(),
        Compose(*outer, NoiseAction(TinyPolicy(observation_dim, CHUNK)), LatentConditioner(CODES)),
    )
    chunked = TransformedEnv(
        make_env(), Compose(ActionChunk(CHUNK[0], gamma=0.9), LatentConditioner(CODES))
    )
    base = TinyPolicy(observation_dim, CHUNK, chunk_key=keys.ACTION)
    policies = {
        "environment": steering(observation_dim, keys.ACTION),
        "policy": TensorDictSequential(steering(observation_dim, keys.NOISE), base),
    }
    data = {}
    for side, env in (("environment", noisy), ("policy", chunked)):
        env.set_seed(11)
        torch.manual_seed(11)
        with torch.no_grad():
            data[side] = env.rollout(12, policies[side], break_when_any_done=False)
    here, there = data["environment"], data["policy"]
    torch.testing.assert_close(here[keys.ACTION], there[keys.NOISE])
    torch.testing.assert_close(here["next", keys.CHUNK], there[keys.ACTION])
    for key in chunked.rollout(1).keys(True, True):
        if key not in (keys.ACTION,):
            torch.testing.assert_close(here[key], there[key], msg=lambda m, k=key: f"{k}: {m}")
    assert here["next", "done"].any()
    assert len(here[keys.LATENT].unique()) == CODES
    noisy.close()
    chunked.close()
