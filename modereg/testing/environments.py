"""Tiny environments whose sub-environments end at different steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from modereg import keys

__all__ = ["CountingEnv", "counting_gym"]


class CountingEnv(EnvBase):
    """Counts its steps and adds up its actions; every sub-environment has its own length.

    The observation ``[*B, 1 + A]`` is the number of steps so far and the sum of the actions so far,
    the reward ``[*B, 1]`` is 1 plus the sum of the action. An episode terminates after its length.
    A sub-environment that is stepped on after its end returns NaN, so that using its data shows.

    Args:
        lengths: steps of an episode: an int for an unbatched environment, a sequence of N for a
            batch ``[N]``.
        action_dim: A.
        bound: actions are specified within plus and minus this; None leaves them unbounded.
        observation_key: entry of the observation; nested keys allowed.
        action_key: entry of the action ``[*B, A]``.
        reward_key: entry of the reward.
        start_noise: standard deviation of noise on the sum at reset, from torch's generator.
        dtype: type of observations, actions and rewards.
        device: device of all tensors.
    """

    def __init__(
        self,
        lengths: int | Sequence[int],
        *,
        action_dim: int = 2,
        bound: float | None = 0.5,
        observation_key: NestedKey = keys.OBSERVATION,
        action_key: NestedKey = keys.ACTION,
        reward_key: NestedKey = keys.REWARD,
        start_noise: float = 0.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.lengths = torch.as_tensor(lengths, device=device).unsqueeze(-1)
        batch = self.lengths.shape[:-1]
        super().__init__(device=torch.device(device), batch_size=batch)
        self._names = (observation_key, action_key, reward_key)
        self.start_noise = start_noise
        options = {"dtype": dtype, "device": self.device}
        self.observation_spec = Composite(
            {observation_key: Unbounded((*batch, 1 + action_dim), **options)}, shape=batch
        )
        shape = (*batch, action_dim)
        action = Unbounded(shape, **options)
        if bound is not None:
            action = Bounded(-bound, bound, shape, **options)
        self.full_action_spec = Composite({action_key: action}, shape=batch)
        self.full_reward_spec = Composite(
            {reward_key: Unbounded((*batch, 1), **options)}, shape=batch
        )
        flag = Binary(1, (*batch, 1), dtype=torch.bool, device=self.device)
        self.full_done_spec = Composite({"done": flag, "terminated": flag.clone()}, shape=batch)
        self._state = torch.zeros((*batch, 1 + action_dim), **options)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            torch.manual_seed(seed)

    def _observe(self, state: Tensor, **entries: Tensor) -> TensorDict:
        out = TensorDict(entries, self.batch_size, device=self.device)
        return out.set(self._names[0], state.clone())

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        fresh = torch.zeros_like(self._state)
        if self.start_noise:
            fresh[..., 1:] = self.start_noise * torch.randn_like(fresh[..., 1:])
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is not None:
            fresh = torch.where(mask.view(*self.batch_size, 1), fresh, self._state)
        self._state = fresh
        done = self._state[..., :1] >= self.lengths
        return self._observe(self._state, done=done, terminated=done.clone())

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get(self._names[1])
        over = self._state[..., :1] >= self.lengths
        moved = torch.cat([self._state[..., :1] + 1, self._state[..., 1:] + action], -1)
        self._state = torch.where(over, self._state, moved)
        done = self._state[..., :1] >= self.lengths
        poison = torch.where(over, torch.nan, 0.0).to(moved.dtype)
        out = self._observe(self._state + poison, done=done, terminated=done.clone())
        return out.set(self._names[2], 1 + action.sum(-1, keepdim=True) + poison)


def counting_gym(length: int, action_dim: int = 2, truncates: bool = False) -> Any:
    """Return a Gymnasium environment that does what :class:`CountingEnv` does.

    It raises when it is stepped after its end without a reset.

    Args:
        length: steps of an episode.
        action_dim: A.
        truncates: whether the episode ends in truncation instead of termination.
    """
    import gymnasium
    import numpy as np

    class CountingGym(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1 + action_dim,), np.float32)
        action_space = gymnasium.spaces.Box(-0.5, 0.5, (action_dim,), np.float32)
        _state: Any = None

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
            super().reset(seed=seed)
            self._state = np.zeros(1 + action_dim, np.float32)
            return self._state.copy(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            if self._state is None or self._state[0] >= length:
                raise RuntimeError("the environment is stepped after its end, reset it first")
            self._state[0] += 1
            self._state[1:] += action
            done = bool(self._state[0] >= length)
            reward = 1.0 + float(np.sum(action))
            return self._state.copy(), reward, done and not truncates, done and truncates, {}

    return CountingGym()
