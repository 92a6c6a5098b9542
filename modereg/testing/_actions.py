"""Policies without a network, for batteries that play whole episodes."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded
from torchrl.envs import EnvBase

__all__ = ["Replay", "Rest", "Wide"]


class Replay:
    """Plays actions ``[N, T, A]`` open loop, then the last one again."""

    def __init__(self, actions: Tensor, key: NestedKey) -> None:
        self.actions, self.key, self.step = actions, key, 0

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = self.actions[:, min(self.step, self.actions.shape[1] - 1)]
        self.step += 1
        return tensordict.set(self.key, action.to(tensordict.device or "cpu"))


class Rest:
    """Plays zeros, or what of the spec is nearest to them."""

    def __init__(self, env: EnvBase) -> None:
        self.action = env.full_action_spec.project(env.full_action_spec.zero())

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict.update(self.action.clone())


class Wide:
    """Random chunks of three times the half-width of the spec, which are clipped to it."""

    def __init__(self, env: EnvBase) -> None:
        self.key, self.spec = env.action_key, env.action_spec

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = torch.randn(self.spec.shape, dtype=self.spec.dtype, device=self.spec.device)
        if isinstance(self.spec, Bounded):
            low, high = self.spec.low, self.spec.high
            action = (low + high) / 2 + 1.5 * (high - low) * action
        return tensordict.set(self.key, action)
