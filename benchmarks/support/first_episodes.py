"""The first episode of each row of an environment, all of them from a seeded reset."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase

from modereg import keys
from modereg.seeding import isolated_generators
from modereg.wrapping import SteeredEnv

__all__ = ["MASK", "first_episodes"]

MASK = ("collector", "mask")
"""True where a decision belongs to the first episode, ``[B, T]``."""


@torch.no_grad()
def first_episodes(
    env: SteeredEnv, policy: Callable[[TensorDictBase], TensorDictBase], seed: int
) -> TensorDictBase:
    """Return decisions ``[B, T]``, T those of the longest episode.

    What a row plays after its episode counts as nothing: :data:`MASK` is false there, and no
    environment steps are spent on it.
    """
    with isolated_generators():  # an environment may seed torch's, from which the policy draws
        env.set_seed(seed)
    batch = env.rollout(env.layout.max_decisions, policy, break_when_any_done=False)
    done = batch.get(("next", "done")).squeeze(-1).long()
    first = done.cumsum(1) - done == 0
    batch.set(MASK, first)
    steps = batch.get(("next", keys.STEPS))
    batch.set(("next", keys.STEPS), steps * first.unsqueeze(-1))
    return batch
