"""The learner of a task: its networks, its environment, and the scales that they read by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from tensordict import NestedKey
from torchrl.envs import EnvBase, TransformedEnv

from modereg import keys
from modereg.ddiffpg.actor import ActionBox, ModeActor
from modereg.ddiffpg.clustering import BehaviourClusters, OneCluster, PathClusters, WarpedClusters
from modereg.ddiffpg.collecting import EpisodeCollector
from modereg.ddiffpg.critics import ModeCritics
from modereg.ddiffpg.learner import DDiffPG
from modereg.ddiffpg.modes import ModeTable
from modereg.ddiffpg.options import DDiffPGOptions
from modereg.ddiffpg.replay import TrajectoryReplay
from modereg.errors import ConfigurationError
from modereg.layout import Layout
from modereg.novelty import RandomNetworkDistillation
from modereg.policies import GenerativePolicy
from modereg.wrapping import chunk_env, observation_size

__all__ = ["Sizes", "chunked_env", "fit_scales", "make_clusters", "make_learner"]

ROOM = 0.5
"""Share of the range of observations in random episodes by which the actor's scale is wider on
each side: it will see more than they did."""

OCTAVES = 3
"""Of sines and cosines of observations that the actor reads."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the parts of a learner; see :class:`~modereg.recipes.config.FromScratchConfig`."""

    capacity: int = 4096
    max_modes: int = 24
    embedding_dim: int = 8
    hidden: tuple[int, ...] = (128, 128, 128)
    critic_hidden: tuple[int, ...] = (128, 128)
    inference_steps: int = 5


def make_clusters(kind: Literal["warped", "behaviours", "one"], seed: int = 0) -> PathClusters:
    """Return what tells trajectories apart, by its name."""
    if kind == "warped":
        return WarpedClusters()
    return OneCluster() if kind == "one" else BehaviourClusters(seed=seed)


def make_learner(
    env: EnvBase,
    layout: Layout,
    observation_keys: Sequence[NestedKey],
    loader: Any,
    clusters: PathClusters,
    *,
    method: Literal["diffusion", "flow"] = "diffusion",
    sizes: Sizes | None = None,
    options: DDiffPGOptions | None = None,
    seed: int = 0,
) -> DDiffPG:
    """Return a learner of an environment, whose chunks are played whole, from their first action.

    Args:
        env: batch ``[B]``, with bounded actions ``[B, A]``.
        layout: of a task; its discount is the options'.
        observation_keys: what the policy reads.
        loader: of policies, which makes fresh ones (see
            :func:`~modereg.plugins.policy_loader`).
        clusters: tells trajectories apart.
        method: diffusion or flow matching.
        sizes: of the parts.
        options: of the learner.
        seed: of the resets.

    Raises:
        ConfigurationError: if the actions are not bounded, the environment lacks an entry, or the
            layout skips actions.
    """
    sizes, options = sizes or Sizes(), options or DDiffPGOptions()
    if layout.offset:
        raise ConfigurationError(
            f"expected a task whose chunks are played from their first action, got offset="
            f"{layout.offset}; what is learned here has no other actions to skip"
        )
    box = _action_box(env, layout.played)
    shapes: dict[NestedKey, Sequence[int]] = {
        key: env.observation_spec[key].shape[1:] for key in observation_keys
    }
    policy = _fresh(loader, shapes, box, method, sizes)
    chunked = chunked_env(env, layout, policy, options.gamma)
    state_keys = layout.steered_by
    size = observation_size(chunked, state_keys)
    collector = EpisodeCollector(
        chunked, box, [*observation_keys, *state_keys], layout.max_decisions, seed
    )
    return DDiffPG(
        collector,
        ModeActor(policy, box, ema=options.ema, dropout=options.dropout),
        ModeCritics(size, box.size, hidden=sizes.critic_hidden),
        RandomNetworkDistillation.mlp(
            size, hidden=sizes.critic_hidden, in_keys=state_keys, measure="root"
        ),
        ModeTable(clusters, embedding_dim=sizes.embedding_dim, most=sizes.max_modes),
        TrajectoryReplay(sizes.capacity),
        state_keys=state_keys,
        options=options,
    )


def chunked_env(
    env: EnvBase, layout: Layout, policy: GenerativePolicy, gamma: float
) -> TransformedEnv:
    """Return an environment whose action is a chunk that is played whole."""
    played = replace(layout, horizon=layout.played, offset=0, gamma=gamma)
    return chunk_env(env, policy, played)


def fit_scales(learner: DDiffPG) -> None:
    """Scale what the actor reads by the replay, with room, and its actions by their bounds."""
    actor, box = learner.actor, learner.actor.box
    seen, length = learner.replay.episodes[: len(learner.replay)], actor.policy.noise_shape[0]
    ranges = []
    for key in actor.observation_keys:
        value = seen["observed", key].flatten(0, 1)
        low, high = value.amin(0), value.amax(0)
        ranges.append(torch.stack([low - ROOM * (high - low), high + ROOM * (high - low)]))
    dim = learner.modes.embeddings.shape[-1]
    unit = torch.tensor([-1.0, 1.0])[:, None].expand(2, dim)
    ends = torch.stack([box.low, box.high])[:, None].expand(2, length, -1)
    policy: Any = actor.policy
    policy.fit_normalizer(ends, *ranges, unit)
    actor.acting.load_state_dict(policy.state_dict())


def _action_box(env: EnvBase, horizon: int) -> ActionBox:
    space = env.action_spec.space
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None:
        infinite = torch.full(env.action_spec.shape[-1:], float("inf"))
        return ActionBox(-infinite, infinite, horizon)  # which refuses them
    return ActionBox(low[0].float().cpu(), high[0].float().cpu(), horizon)


def _fresh(
    loader: Any,
    shapes: dict[NestedKey, Sequence[int]],
    box: ActionBox,
    method: str,
    sizes: Sizes,
) -> GenerativePolicy:
    """Return a fresh policy that reads a mode embedding last."""
    policy: GenerativePolicy = loader.untrained(
        observation_shapes={**shapes, keys.MODE_EMBEDDING: (sizes.embedding_dim,)},
        chunk_shape=(box.horizon, len(box.low)),
        method=method,
        hidden=sizes.hidden,
        num_train_timesteps=10 * sizes.inference_steps,
        num_inference_steps=sizes.inference_steps,
        observation_octaves=OCTAVES,
    )
    return policy
