"""What the tests of whole discoveries share: four roads, of which an episode's first noise decides.

A point goes from the middle into one of four quarters of the plane, and on where it is going.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Unbounded
from torchrl.envs import EnvBase

from modereg import keys
from modereg.discovery import ClusterModeDiscoverer
from modereg.layout import Layout
from modereg.policies import GenerativePolicy, as_generative_policy
from modereg.rollouts import Episodes, collect_episodes
from modereg.wrapping import Wrapped, wrap

CODES, STEPS, SHAPE = 4, 6, (2, 2)
NESTED = (("agent", "x"), ("agent", "y"))
LAYOUT = Layout(STEPS, execute=2, horizon=2)


class Roads(EnvBase):
    """``o' = o + a`` with a little drift, for six steps; every road succeeds.

    Args:
        num_envs: batch size.
        entries: one observation of both coordinates, or two of one each.
        dtype: of observations and actions.
    """

    finished_rows_stay = True

    def __init__(
        self,
        num_envs: int = 64,
        *,
        entries: Sequence[NestedKey] = (keys.OBSERVATION,),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(device="cpu", batch_size=torch.Size([num_envs]))
        self.entries, size = entries, 2 // len(entries)
        for key in entries:
            self.observation_spec[key] = Unbounded((num_envs, size), dtype=dtype)
        self.action_spec = Unbounded((num_envs, 2), dtype=dtype)
        self.reward_spec = Unbounded((num_envs, 1))
        self.position, self.steps = torch.zeros(num_envs, 2, dtype=dtype), 0

    def _set_seed(self, seed: int | None) -> None:
        pass  # it draws from torch's generator

    def _observed(self) -> TensorDict:
        seen = TensorDict({}, self.batch_size)
        for key, part in zip(self.entries, self.position.chunk(len(self.entries), -1), strict=True):
            seen.set(key, part.clone())
        return seen

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: object) -> TensorDictBase:
        self.position, self.steps = 0.05 * torch.randn_like(self.position), 0
        return self._observed()

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        drift = 0.05 * torch.randn_like(self.position)
        self.position, self.steps = self.position + tensordict[keys.ACTION] + drift, self.steps + 1
        done = torch.full((*self.batch_size, 1), self.steps >= STEPS)
        ended = {"reward": torch.zeros(*self.batch_size, 1), "done": done, "terminated": done}
        return self._observed().update(ended)


def going(noise: Tensor, *observed: Tensor) -> Tensor:
    """Return chunks into the quarter that the noise says, or the one that the point is in."""
    position = torch.cat(observed, -1)
    aim = noise.mean(-2) * noise.shape[-2] ** 0.5 + 3 * position
    return (4 * aim).tanh().unsqueeze(-2).expand(noise.shape)


def deaf(noise: Tensor, *observed: Tensor) -> Tensor:
    """Chunks into a quarter that the noise decides as a die does."""
    position = torch.cat(observed, -1)
    aim = torch.sin(60 * noise.mean(-2)) + 3 * position
    return (4 * aim).tanh().unsqueeze(-2).expand(noise.shape)


def policy(
    function: Callable[..., Tensor] = going, entries: Sequence[NestedKey] = (keys.OBSERVATION,)
) -> GenerativePolicy:
    return as_generative_policy(
        function, in_keys=list(entries), noise_shape=SHAPE, chunk_shape=SHAPE
    )


def wrapped(
    function: Callable[..., Tensor] = going,
    layout: Layout = LAYOUT,
    codes: int | None = CODES,
    **options: Any,
) -> Wrapped:
    """Return the roads, steered by codes that are not yet found; without a number they are."""
    env = Roads(**options)
    torch.manual_seed(0)
    made = policy(function, env.entries)
    return wrap(env, made, layout, codes, episodes=512, hidden=(32,), steps=150)


def clustered(
    made: Wrapped, kept: Sequence[NestedKey], episodes: int = 512
) -> tuple[Episodes, ClusterModeDiscoverer]:
    """Return episodes of the base, and the discoverer, fitted to them."""
    env, _, discoverer = made
    assert isinstance(discoverer, ClusterModeDiscoverer)
    final = [keys.HISTORY, keys.LATENT]
    base = collect_episodes(env, episodes, keep=kept, final=final)
    discoverer.fit_episodes(base)
    return base, discoverer
