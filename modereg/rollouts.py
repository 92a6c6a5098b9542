"""Whole episodes of a batched environment: what evaluation, clustering and imitation read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from modereg import keys
from modereg.devices import across_devices
from modereg.errors import ConfigurationError
from modereg.transforms._common import expand_mask

__all__ = ["Episodes", "collect_episodes", "iterate_episodes"]

Policy = Callable[[TensorDictBase], TensorDictBase]

_ROWS = ("decisions", "valid", "final", "returns", "env_steps")
"""Fields of :class:`Episodes` with one row an episode."""


@dataclass
class Episodes:
    """N whole episodes of at most T decisions.

    Attributes:
        decisions: entries at each decision, ``[N, T]``; padding after the end.
        valid: ``[N, T]`` bool, False on padding.
        final: entries of the last ``next``, ``[N]``.
        returns: undiscounted return of each, ``[N]``.
        env_steps: environment steps of each, ``[N]`` int64.
        spent: environment steps that were taken in all: those of episodes that were cut off or
            began after a sub-environment's first one had ended are counted too.
        clipped: mean share of clipped action components, 0 where nothing reports it.
    """

    decisions: TensorDict
    valid: Tensor
    final: TensorDict
    returns: Tensor
    env_steps: Tensor
    spent: int
    clipped: float

    def __len__(self) -> int:
        """Return N."""
        return len(self.valid)

    def __getitem__(self, chosen: slice | Tensor) -> Episodes:
        """Return some of them; what was spent and the clipped share stay those of all."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in _ROWS})

    def to(self, device: torch.device | str) -> Episodes:
        """Return them on a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _ROWS})

    def flat(self, episodes: Tensor | None = None) -> TensorDict:
        """Return the valid decisions of the episodes in a mask ``[N]``, or of all, ``[n]``."""
        if episodes is None:
            return self.decisions[self.valid]
        return self.decisions[self.valid & episodes.to(self.valid.device)[:, None]]

    @staticmethod
    def cat(parts: Sequence[Episodes]) -> Episodes:
        """Join episodes along N."""
        weights = [float(part.env_steps.sum()) for part in parts]
        clipped = sum(p.clipped * w for p, w in zip(parts, weights, strict=True))
        return Episodes(
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in _ROWS},
            spent=sum(part.spent for part in parts),
            clipped=clipped / max(sum(weights), 1.0),
        )


def collect_episodes(env: EnvBase, num_episodes: int, **options: Any) -> Episodes:
    """Roll out N whole episodes: the parts of :func:`iterate_episodes`, with its options, joined.

    Raises:
        ConfigurationError: as there.
    """
    return Episodes.cat(list(iterate_episodes(env, num_episodes, **options)))


def iterate_episodes(
    env: EnvBase,
    num_episodes: int,
    *,
    max_decisions: int | None = None,
    policy: Policy | None = None,
    keep: Sequence[NestedKey] = (),
    final: Sequence[NestedKey] = (),
    deterministic: bool = False,
    cut: bool = False,
) -> Iterator[Episodes]:
    """Roll out whole episodes from fresh resets, and yield them batch by batch.

    Taking only the first episode after a reset keeps short ones from being over-represented. An
    environment whose finished rows stay as they are (see :class:`~modereg.transforms.ActionChunk`)
    is not reset until all have finished; others are, row by row, and what they play then is lost.

    Args:
        env: batched environment ``[B]`` with decisions as steps.
        num_episodes: N; the last batch of episodes is shortened to it.
        max_decisions: T, decisions of the longest episode; None reads ``env.layout``.
        policy: writes the action, on whatever device it lives; None takes random actions of the
            spec, which in a steered environment are N(0, I) and thus the base policy.
        keep: entries of each decision to keep.
        final: entries of the last ``next`` to keep.
        deterministic: whether to act by the policy's mode instead of sampling.
        cut: whether a longer episode ends at T, its final entries being the last, instead of being
            an error.

    Raises:
        ConfigurationError: if the environment is not batched along one dimension or is empty, if
            N < 1 or T < 1, if T is not known, or if an episode outlives T and none may be cut.
    """
    if len(env.batch_size) != 1 or min(*env.batch_size, num_episodes) < 1:
        raise ConfigurationError(
            f"expected an environment of batch [B] and at least one episode, got batch "
            f"{tuple(env.batch_size)} and {num_episodes} episodes"
        )
    length = _longest(env) if max_decisions is None else max_decisions
    if length < 1:
        raise ConfigurationError(f"expected max_decisions of at least 1, got {length}")
    how = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
    options = {"max_decisions": length, "keep": keep, "final": final, "how": how, "cut": cut}
    acts = across_devices(policy or env.rand_action)
    return _parts(partial(_one_batch, env, acts, **options), num_episodes)


def _parts(play: Callable[[], Episodes], num_episodes: int) -> Iterator[Episodes]:
    while num_episodes > 0:
        part = play()[:num_episodes]
        num_episodes -= len(part)
        yield part


def _longest(env: EnvBase) -> int:
    layout = getattr(env, "layout", None)
    if layout is None:
        raise ConfigurationError(
            "expected max_decisions, the decisions of the longest episode, for an environment that "
            "carries no layout; give it, or make the environment by steer_env or wrap"
        )
    return layout.max_decisions


@torch.no_grad()
def _one_batch(
    env: EnvBase,
    policy: Policy,
    *,
    max_decisions: int,
    keep: Sequence[NestedKey],
    final: Sequence[NestedKey],
    how: ExplorationType,
    cut: bool,
) -> Episodes:
    decisions, masks, figures, last = [], [], [], None
    stays = _finished_rows_stay(env)
    with set_exploration_type(how):
        for alive, step in _steps(env, policy, max_decisions, stays, cut):
            ended = step.get("next")
            decisions.append(step.select(*keep))
            masks.append(alive)
            figures.append(_figures(ended, env.reward_keys[0]))
            chosen = ended.select(*final)
            last = chosen if last is None else _take(alive, chosen, last)
    valid = torch.stack(masks, 1)
    reward, steps, share = (torch.stack(rows, 1) for rows in zip(*figures, strict=True))
    lengths = steps * valid
    return Episodes(
        *_pad(torch.stack(decisions, 1), valid, max_decisions),
        final=last,
        returns=reward.masked_fill(~valid, 0.0).sum(1),
        env_steps=lengths.sum(1),
        spent=int((lengths if stays else steps).sum()),
        clipped=float(share[valid].mean()),
    )


def _figures(ended: TensorDictBase, reward_key: NestedKey) -> tuple[Tensor, Tensor, Tensor]:
    """Return reward, environment steps and clipped share of a step, each ``[B]``."""
    reward = ended.get(reward_key)
    steps = ended.get(keys.STEPS, torch.ones_like(reward, dtype=torch.int64))
    share = ended.get(keys.CLIPPED, torch.zeros_like(reward))
    return reward.squeeze(-1), steps.squeeze(-1), share.squeeze(-1)


def _finished_rows_stay(env: EnvBase) -> bool:
    inner = env.base_env if isinstance(env, TransformedEnv) else env
    return bool(getattr(type(inner), "finished_rows_stay", False))


def _steps(
    env: EnvBase, policy: Policy, max_decisions: int, stays: bool, cut: bool
) -> Iterator[tuple[Tensor, TensorDictBase]]:
    """Yield which rows are still in their first episode, and the transition of all rows."""
    carrier = env.reset()
    alive = ~carrier.get("done").squeeze(-1)
    for _ in range(max_decisions):
        carrier = policy(carrier)
        if stays:
            transition = env.step(carrier)
            carrier = env.step_mdp(transition)
        else:
            transition, carrier = env.step_and_maybe_reset(carrier)
        yield alive, transition
        alive = alive & ~transition.get(("next", "done")).squeeze(-1)
        if not bool(alive.any()):
            return
    if not cut:
        rows = alive.nonzero().squeeze(-1).tolist()
        raise ConfigurationError(
            f"expected every episode to end within max_decisions={max_decisions} decisions, got "
            f"{len(rows)} of {len(alive)} that go on, in rows {rows[:8]}; give the decisions of "
            "the longest episode, or cut=True to end episodes there"
        )


def _take(mask: Tensor, new: TensorDictBase, old: TensorDictBase) -> TensorDictBase:
    return new.apply(lambda a, b: torch.where(expand_mask(mask, a), a, b), old)


def _pad(decisions: TensorDict, valid: Tensor, length: int) -> tuple[TensorDict, Tensor]:
    missing = length - valid.shape[1]
    if not missing:
        return decisions, valid
    filler = decisions[:, -1:].expand(len(valid), missing)
    return torch.cat([decisions, filler], 1), torch.cat(
        [valid, valid.new_zeros(len(valid), missing)], 1
    )
