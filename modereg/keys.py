"""Default tensordict keys, in one place.

Every object of modereg takes the keys that it reads and writes as arguments
(:class:`~tensordict.NestedKey`, so tuples name nested entries); these are the defaults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modereg.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensordict import NestedKey

__all__ = [
    "ACTION",
    "BASE_ACTION",
    "CHAIN",
    "CHAIN_LOG_PROB",
    "CHUNK",
    "CLIPPED",
    "ELAPSED",
    "ENTROPY_REWARD",
    "EPISODE_REWARD",
    "EXECUTED",
    "EXPLORATION_REWARD",
    "HISTORY",
    "LATENT",
    "LATENT_FEATURES",
    "LOGITS",
    "MI_REWARD",
    "MODE",
    "MODE_EMBEDDING",
    "NOISE",
    "NOVELTY_REWARD",
    "OBSERVATION",
    "PLAYED",
    "REGULARIZED_REWARD",
    "REWARD",
    "STACKED",
    "STEPS",
    "SUCCESS",
    "from_json",
    "key_list",
    "stacked",
    "to_json",
]

OBSERVATION = "observation"
"""What the base policy reads, ``[*B, O]``."""

ACTION = "action"
"""What the agent emits. On the environment side this is the noise, ``[*B, *noise_shape]``."""

NOISE = "noise"
"""The latent noise ``w`` of a generative policy, ``[*B, *noise_shape]``."""

CHUNK = "action_chunk"
"""A decoded action chunk, ``[*B, H, A]``."""

EXECUTED = "executed_chunk"
"""The part of the chunk that was played, clipped to the action spec, ``[*B, execute, A]``."""

BASE_ACTION = "base_action"
"""What the base plays at a single step, before a residual moves it, ``[*B, 1, A]``."""

PLAYED = "played_action"
"""What was played at a single step, ``[*B, 1, A]``."""

CHAIN = "denoising_chain"
"""What the trained steps of a denoising chain went through, ``[*B, K + 1, H, A]``."""

CHAIN_LOG_PROB = "denoising_log_prob"
"""Log density of each of these steps when it was drawn, in nats, ``[*B, K]``."""

STACKED = "stacked"
"""Under it, the latest observations of policies that read several, each ``[*B, S, ...]``."""

LATENT = "latent"
"""The code ``z`` of the episode, ``[*B]`` int64 for discrete priors."""

LATENT_FEATURES = "latent_features"
"""What networks read of the code: one-hot, or the code itself, ``[*B, D]``."""

MODE_EMBEDDING = "mode_embedding"
"""What a policy reads that can be told which mode to show, ``[*B, D]``; zeros leave it free."""

LOGITS = "logits"
"""Unnormalised log-probabilities over codes, ``[*B, K]``."""

HISTORY = "history"
"""Observations at the decision boundaries so far, flattened, ``[*B, F]``."""

REWARD = "reward"
"""The environment's reward, never overwritten, ``[*B, 1]``."""

MI_REWARD = "mi_reward"
"""The intrinsic reward, ``[*B, 1]``."""

REGULARIZED_REWARD = "regularized_reward"
"""``reward / unit + coef * mi_reward``, ``[*B, 1]``."""

EPISODE_REWARD = "episode_reward"
"""Sum of the rewards of the episode so far, ``[*B, 1]``, as TorchRL's ``RewardSum`` writes it."""

NOVELTY_REWARD = "novelty_reward"
"""The novelty of the next state, ``[*B, 1]``."""

ENTROPY_REWARD = "entropy_reward"
"""How far the next state is from the others of its batch, ``[*B, 1]``."""

EXPLORATION_REWARD = "exploration_reward"
"""A name for ``reward + coef * novelty_reward``, ``[*B, 1]``; nothing writes it unasked."""

STEPS = "steps_to_next_obs"
"""Environment steps between two decisions, ``[*B, 1]`` int64; TorchRL's value estimators raise
the discount to it."""

CLIPPED = "clipped_share"
"""Share of the played action components that had to be clipped, ``[*B, 1]``."""

ELAPSED = "elapsed"
"""Elapsed share of the time limit, ``[*B, 1]`` in [0, 1]."""

SUCCESS = "success"
"""Whether the task is solved, ``[*B, 1]`` bool."""

MODE = "mode"
"""Mode label of the episode so far, ``[*B, 1]`` int64, -1 while undecided."""


def stacked(key: NestedKey) -> NestedKey:
    """Return the key of the stack of an entry: its name under :data:`STACKED`."""
    return (STACKED, key) if isinstance(key, str) else (STACKED, *key)


def key_list(in_keys: Sequence[NestedKey]) -> list[NestedKey]:
    """Return keys as a list.

    Raises:
        ConfigurationError: if there are none, or a string came in the place of a sequence.
    """
    if isinstance(in_keys, str) or not list(in_keys):
        raise ConfigurationError(f"expected a sequence of at least one key, got {in_keys!r}")
    return list(in_keys)


def to_json(key: NestedKey) -> str | list[str]:
    """Return a nested key as JSON holds it: its name, or a list of names."""
    return key if isinstance(key, str) else list(key)


def from_json(value: str | list[str]) -> NestedKey:
    """Return the nested key that JSON holds."""
    return tuple(value) if isinstance(value, list) else value
