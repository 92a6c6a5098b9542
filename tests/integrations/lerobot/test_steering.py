"""Policies of LeRobot are steered in an environment, and their behaviours discovered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import Compose, Transform, TransformedEnv

import modereg
from modereg.testing import CountingEnv
from modereg.transforms import ActionChunk
from modereg.wrapping import steer_env
from modereg_integrations.lerobot import LeRobotPolicy
from tests.testing.chunks import check_chunk

ENTRIES = {
    "observation.state": "observation",
    "observation.environment_state": "world",
    "observation.images.top": "camera",
    "observation.images.wrist": "wrist",
}

Make = Callable[..., Any]


class Scene(Transform):
    """Writes what LeRobot's policies read beside the state: two cameras and five numbers."""

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        state = next_tensordict["observation"]
        brightness = 128 + 20 * state[..., 1:].clamp(-5, 5)
        camera = brightness.to(torch.uint8)[..., None, None].expand(*state.shape[:-1], 3, 56, 56)
        world = torch.cat([state, state.sum(-1, keepdim=True)], -1)
        return next_tensordict.update({"camera": camera, "wrist": camera, "world": world})

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return self._call(tensordict_reset)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        batch = observation_spec.shape
        for name in ("camera", "wrist"):
            observation_spec[name] = Unbounded((*batch, 3, 56, 56), dtype=torch.uint8)
        observation_spec["world"] = Unbounded((*batch, 5))
        return observation_spec


def scene(rows: int) -> TransformedEnv:
    """Return an environment of 8 steps, whose state is their number and the sum of the actions."""
    env = CountingEnv([8] * rows, action_dim=3, bound=None, start_noise=0.1)
    return TransformedEnv(env, Compose(Scene()))


def steered(make: Make, kind: str) -> LeRobotPolicy:
    made, _ = make(kind)
    named = {name: key for name, key in ENTRIES.items() if name in made[0].config.input_features}
    task = {} if "diffusion" in kind else {"task": "pick the cube"}
    return LeRobotPolicy(*made, entries=named, **task).requires_grad_(False)


@pytest.mark.parametrize("kind", ["diffusion", "diffusion of images", "smolvla", "pi0"])
def test_noise_is_the_action(make: Make, kind: str) -> None:
    policy = steered(make, kind)
    assert policy.observation_steps == (2 if kind == "diffusion" else 1)
    env = steer_env(scene(3), policy, 1, modereg.Layout(8, execute=3, feature_keys="observation"))
    rollout = env.rollout(2)
    assert rollout["action"].shape == (3, 2, *policy.noise_shape)
    chunk = policy.decode_from(rollout, rollout["action"])
    torch.testing.assert_close(rollout["next", "action_chunk"], chunk, rtol=1e-4, atol=1e-4)
    moved = rollout["next", "observation"] - rollout["observation"]
    torch.testing.assert_close(moved[..., 1:], chunk[..., :3, :].sum(-2), rtol=1e-4, atol=1e-3)


def test_its_behaviours_are_discovered(make: Make) -> None:
    """The actions of an untrained policy differ by its noise, and so does where an episode ends."""
    policy = steered(make, "diffusion")
    env, steering, discoverer = modereg.wrap(
        scene(64),
        policy,
        modereg.Layout(
            8, steering_keys="observation", feature_keys="observation", feature_dims=(1, 2, 3)
        ),
        num_modes=4,
    )
    figures = modereg.discover_modes(
        env,
        steering,
        discoverer,
        episodes=256,
        refinements=2,
        outcome_steps=150,
        guide_steps=150,
        student_steps=300,
    )
    assert figures[0]["silhouette"] > 0
    assert figures[-1]["hits"] > 0.4, "of four codes, where chance is a quarter"
    rollout = env.rollout(2, steering)
    read: Tensor = discoverer.log_prob(rollout["next"][:, -1]).argmax(-1)
    assert (read == rollout["latent"][:, -1]).float().mean() > 0.4


def test_chunks_are_played_here_as_elsewhere() -> None:
    """modereg runs beside LeRobot's torch, which is older than its own."""
    check_chunk(ActionChunk)


def test_a_tensordict_of_one_text_for_all(make: Make) -> None:
    made, data = make("pi0")
    policy = LeRobotPolicy(*made).requires_grad_(False)
    noise = policy.draw_noise([3])
    data = data.exclude("language_instruction").set_non_tensor("language_instruction", "pick")
    expected = LeRobotPolicy(*made, task="pick").requires_grad_(False)
    torch.testing.assert_close(policy.decode_from(data, noise), expected.decode_from(data, noise))
