"""PI0 is steered in an environment of TorchRL's layout, in all of its noise or in a subspace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Composite, Unbounded, UnboundedDiscrete
from torchrl.envs import EnvBase, TransformedEnv

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
