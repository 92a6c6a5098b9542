"""Episodes of a batch of environments, whole, as the replay keeps them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from modereg import keys
from modereg.ddiffpg.actor import ActionBox
from modereg.errors import ConfigurationError
from modereg.rollouts import Episodes, collect_episodes
from modereg.seeding import derived_seed

__all__ = ["EpisodeCollector", "random_chunks", "states_of"]

COLLECTION = 7
"""Sets the seeds of collected batches apart from those of other parts of a run."""

Policy = Callable[[TensorDictBase], TensorDictBase]


class EpisodeCollector:
    """Plays an episode in each row, from a seeded reset.

    Args:
        env: batch ``[B]``, whose action is a chunk and which keeps a history; its ``success`` says
            whether an episode reached its goal.
        box: of its chunks.
        read: entries that actor and critics read.
        max_decisions: T, of the longest episode.
        seed: of the resets.

    Raises:
        ConfigurationError: if the environment does not say what success is.
    """

    def __init__(
        self,
        env: EnvBase,
        box: ActionBox,
        read: Sequence[NestedKey],
        max_decisions: int,
        seed: int = 0,
    ) -> None:
        if keys.SUCCESS not in env.observation_spec.keys(True, True):
            raise ConfigurationError(
                f"expected an environment with the entry {keys.SUCCESS!r}, since trajectories that "
                "reached a goal are what modes are made of, got one without; name its entry by the "
                "task's option success_key"
            )
        self.env, self.box, self.read = env, box, list(dict.fromkeys(read))
        self.max_decisions, self.seed = max_decisions, seed
        self.batches = self.env_steps = 0

    @property
    def rows(self) -> int:
        """Environments B."""
        return int(self.env.batch_size.numel())

    def play(self, policy: Policy) -> TensorDict:
        """Return an episode of each row, ``[B]``, as :class:`TrajectoryReplay` keeps them.

        With ``observed`` ``[B, T + 1]``, ``actions`` ``[B, T, C]`` in [-1, 1], ``rewards``,
        ``steps`` and ``terminated`` ``[B, T]``, ``length`` in decisions, ``success``, and ``path``
        ``[B, T + 1, d]``, which repeats its last point.
        """
        self.env.set_seed(derived_seed(self.seed, COLLECTION, self.batches))
        self.batches += 1
        after: list[NestedKey] = [
            ("next", name) for name in (keys.EXECUTED, keys.REWARD, keys.STEPS)
        ]
        episodes = collect_episodes(
            self.env,
            self.rows,
            max_decisions=self.max_decisions,
            policy=policy,
            keep=[*self.read, *after],
            final=[*self.read, keys.HISTORY, "terminated", keys.SUCCESS],
        )
        self.env_steps += episodes.spent
        return self._kept(episodes)

    def _kept(self, episodes: Episodes) -> TensorDict:
        valid, final, after = episodes.valid, episodes.final, episodes.decisions.get("next")
        lengths, rows = valid.sum(1), torch.arange(len(valid))
        terminated = torch.zeros_like(valid)
        terminated[rows, lengths - 1] = final.get("terminated").squeeze(-1)
        points = valid.shape[1] + 1
        kept: dict[Any, Any] = {
            "observed": self._observed(episodes, lengths),
            "actions": self.box.flat(after.get(keys.EXECUTED)),
            "rewards": after.get(keys.REWARD).squeeze(-1) * valid,
            "steps": after.get(keys.STEPS).squeeze(-1) * valid,
            "terminated": terminated,
            "length": lengths,
            "success": final.get(keys.SUCCESS).squeeze(-1),
            "path": final.get(keys.HISTORY).unflatten(-1, (points, -1)),
        }
        return TensorDict(kept, [len(valid)])

    def _observed(self, episodes: Episodes, lengths: Tensor) -> TensorDict:
        """Return what was seen before each decision and at the end, ``[B, T + 1]``."""
        rows, shape = torch.arange(len(lengths)), list(episodes.valid.shape)
        observed = TensorDict({}, [shape[0], shape[1] + 1])
        for key in self.read:
            value = episodes.decisions.get(key)
            value = torch.cat([value, value[:, -1:]], 1)
            value[rows, lengths] = episodes.final.get(key)
            observed.set(key, value)
        return observed


def states_of(observed: TensorDictBase, state_keys: Sequence[NestedKey]) -> Tensor:
    """Return entries ``[*B, ...]`` side by side, ``[*B, S]``."""
    dims = observed.batch_dims
    return torch.cat([observed.get(key).flatten(dims) for key in state_keys], -1)


def random_chunks(box: ActionBox) -> Policy:
    """Return a policy of uniform actions, half of whose chunks keep to their first one."""

    def policy(tensordict: TensorDictBase) -> TensorDictBase:
        rows = len(tensordict)
        loose = 2.0 * torch.rand(rows, box.size) - 1.0
        steady = loose[:, : len(box.low)].repeat(1, box.horizon)
        flat = torch.where(torch.rand(rows, 1) < 0.5, steady, loose)
        return tensordict.set(keys.ACTION, box.chunk(flat))

    return policy
