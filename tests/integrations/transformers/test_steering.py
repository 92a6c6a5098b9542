"""PI0 is steered in an environment of TorchRL's layout, in all of its noise or in a subspace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Composite, Unbounded, UnboundedDiscrete
from torchrl.data.vla import ACTION_CHUNK_KEY
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.envs.custom import ToyVLAEnv

from modereg.transforms import ActionChunk, NoiseAction
from modereg_integrations.transformers import PI0Policy


class ReachingEnv(EnvBase):
    """The state is the sum of the actions; the image stands still."""

    def __init__(self, observations: TensorDict) -> None:
        super().__init__(batch_size=observations.batch_size)
        self._first = observations
        rows = self.batch_size
        self.observation_spec = Composite(
            observation=Composite(
                image=Unbounded((*rows, 3, 28, 28), dtype=torch.uint8),
                state=Unbounded((*rows, 4)),
                shape=rows,
            ),
            language_instruction=UnboundedDiscrete((*rows, 6)),
            shape=rows,
        )
        self.action_spec = Unbounded((*rows, 3))
        self.reward_spec = Unbounded((*rows, 1))
        self.done_spec = Binary(1, (*rows, 1), dtype=torch.bool)

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDictBase:
        self._state = self._first["observation", "state"].clone()
        return self._first.clone()

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        data = self._first.clone()
        self._state[..., :3] += tensordict["action"]
        data["observation", "state"] = self._state.clone()
        data["reward"] = torch.zeros(*self.batch_size, 1)
        data["done"] = torch.zeros(*self.batch_size, 1, dtype=torch.bool)
        return data

    def _set_seed(self, seed: int | None) -> None:
        torch.manual_seed(seed or 0)


@pytest.mark.parametrize("size", [None, 2])
def test_noise_is_the_action(model: Any, observations: TensorDict, size: int | None) -> None:
    policy = PI0Policy(model, action_dim=3).requires_grad_(False)
    basis = None if size is None else torch.linalg.qr(torch.randn(20, size)).Q
    env = TransformedEnv(ReachingEnv(observations), ActionChunk(4))
    env.append_transform(NoiseAction(policy, basis))
    rollout = env.rollout(2)
    noise = rollout["action"] if size is None else rollout["next", "noise"]
    assert rollout["action"].shape == (3, 2, *((4, 5) if size is None else (size,)))
    chunk = policy.decode_from(rollout, noise)
    assert chunk.shape == (3, 2, 4, 3)
    torch.testing.assert_close(rollout["next", "action_chunk"], chunk, rtol=1e-4, atol=1e-5)
    moved = rollout["next", "observation", "state"] - rollout["observation", "state"]
    torch.testing.assert_close(moved[..., :3], chunk.sum(2), rtol=1e-4, atol=1e-4)


def spell(texts: list[str]) -> torch.Tensor:
    """Ids of a few letters of each text."""
    return torch.tensor([[1, *(3 + ord(letter) % 50 for letter in text[:5]), 2] for text in texts])


@pytest.mark.parametrize("layout", ["chunk", "container"])
def test_torchrls_own_environment(model: Any, layout: str) -> None:
    """Images of another size, text, and chunks where TorchRL's own policies write them."""
    env = ToyVLAEnv(action_dim=3, state_dim=4, image_shape=(3, 16, 16), batch_size=torch.Size([2]))
    policy = PI0Policy(model, action_dim=3, tokenizer=spell, chunk_key=ACTION_CHUNK_KEY)
    if layout == "container":
        chunk = policy(env.reset())
        assert policy.out_keys == [("vla_action", "chunk")]
        assert chunk["vla_action", "chunk"].shape == (2, 4, 3)
        return
    steered = TransformedEnv(env, ActionChunk(2, horizon=4))
    steered.append_transform(NoiseAction(policy, chunk_key=ACTION_CHUNK_KEY))
    rollout = steered.rollout(3)
    played = rollout["next", "vla_action", "chunk"].clamp(-1, 1)
    assert rollout["action"].shape == (2, 3, 4, 5)
    torch.testing.assert_close(rollout["next", "observation", "state"][..., :3], played[:, :, 1])
