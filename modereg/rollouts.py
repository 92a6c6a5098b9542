"""Whole episodes of a batched environment: what evaluation, clustering and imitation read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from modereg import keys
from modereg.errors import ConfigurationError

__all__ = ["Episodes", "collect_episodes"]

Policy = Callable[[TensorDictBase], TensorDictBase]


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

    def flat(self, episodes: Tensor) -> TensorDict:
        """Return the valid decisions of the episodes in a mask ``[N]``, flattened to ``[n]``."""
        return self.decisions[self.valid & episodes[:, None]]

    @staticmethod
    def cat(parts: Sequence[Episodes]) -> Episodes:
        """Join episodes along N."""
        weights = [float(part.env_steps.sum()) for part in parts]
        clipped = sum(p.clipped * w for p, w in zip(parts, weights, strict=True))
        return Episodes(
            decisions=torch.cat([part.decisions for part in parts]),
            valid=torch.cat([part.valid for part in parts]),
            final=torch.cat([part.final for part in parts]),
            returns=torch.cat([part.returns for part in parts]),
            env_steps=torch.cat([part.env_steps for part in parts]),
            spent=sum(part.spent for part in parts),
            clipped=clipped / max(sum(weights), 1.0),
        )


@torch.no_grad()
def collect_episodes(
    env: EnvBase,
    num_episodes: int,
    *,
    max_decisions: int,
    policy: Policy | None = None,
    keep: Sequence[NestedKey] = (),
    final: Sequence[NestedKey] = (),
    deterministic: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Episodes:
    """Roll out whole episodes from fresh resets, the first of every sub-environment after each.

    Taking only the first episode after a reset keeps short ones from being over-represented. An
    environment whose finished rows stay as they are (see :class:`~modereg.transforms.ActionChunk`)
    is not reset until all have finished; others are, row by row, and what they play then is lost.

    Args:
        env: batched environment ``[B]`` with decisions as steps.
        num_episodes: N; the last batch of episodes is cut to it.
        max_decisions: T; an episode that is longer is cut there, its final entries being the last.
        policy: writes the action; None takes random actions of the spec, which in a steered
            environment are N(0, I) and thus the base policy.
        keep: entries of each decision to keep.
        final: entries of the last ``next`` to keep.
        deterministic: whether to act by the policy's mode instead of sampling.
        progress: called with the number of episodes after each batch.

    Raises:
        ConfigurationError: if the environment is not batched along one dimension, or N < 1.
    """
    if len(env.batch_size) != 1 or num_episodes < 1:
        raise ConfigurationError(
            f"expected an environment of batch [B] and at least one episode, got batch "
            f"{tuple(env.batch_size)} and {num_episodes} episodes"
        )
    parts, done = [], 0
    how = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
    with set_exploration_type(how):
        while done < num_episodes:
            part = _one_batch(env, policy or env.rand_action, max_decisions, keep, final)
            parts.append(part)
            done += len(part)
            if progress is not None:
                progress(min(done, num_episodes))
    return _cut(Episodes.cat(parts), num_episodes)


def _cut(episodes: Episodes, num: int) -> Episodes:
    return Episodes(
        decisions=episodes.decisions[:num],
        valid=episodes.valid[:num],
        final=episodes.final[:num],
        returns=episodes.returns[:num],
        env_steps=episodes.env_steps[:num],
        spent=episodes.spent,
        clipped=episodes.clipped,
    )


def _one_batch(
    env: EnvBase,
    policy: Policy,
    max_decisions: int,
    keep: Sequence[NestedKey],
    final: Sequence[NestedKey],
) -> Episodes:
    decisions, masks, last = [], [], None
    returns = torch.zeros(env.batch_size, device=env.device)
    lengths = torch.zeros(env.batch_size, dtype=torch.int64, device=env.device)
    clipped, spent = 0.0, 0
    stays = _finished_rows_stay(env)
    for alive, step in _steps(env, policy, max_decisions, stays):
        decisions.append(step.select(*keep))
        masks.append(alive)
        ended = step.get("next")
        returns += alive * ended.get(env.reward_keys[0]).squeeze(-1)
        steps = ended.get(keys.STEPS, torch.ones_like(lengths).unsqueeze(-1)).squeeze(-1)
        lengths += alive * steps
        spent += int((alive * steps if stays else steps).sum())
        share = ended.get(keys.CLIPPED, None)
        clipped += 0.0 if share is None else float((share.squeeze(-1) * alive).sum())
        chosen = ended.select(*final)
        last = chosen if last is None else _take(alive, chosen, last)
    valid = torch.stack(masks, 1)
    padded = _pad(torch.stack(decisions, 1), valid, max_decisions)
    return Episodes(*padded, last, returns, lengths, spent, clipped / max(int(valid.sum()), 1))


def _finished_rows_stay(env: EnvBase) -> bool:
    inner = env.base_env if isinstance(env, TransformedEnv) else env
    return bool(getattr(type(inner), "finished_rows_stay", False))


def _steps(
    env: EnvBase, policy: Policy, max_decisions: int, stays: bool
) -> Iterator[tuple[Tensor, TensorDictBase]]:
    """Yield which rows are still in their first episode, and the transition of all rows."""
    carrier = env.reset()
    alive = torch.ones(env.batch_size, dtype=torch.bool, device=env.device)
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


def _take(mask: Tensor, new: TensorDictBase, old: TensorDictBase) -> TensorDictBase:
    return new.apply(lambda a, b: torch.where(_expand(mask, a), a, b), old)


def _expand(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def _pad(decisions: TensorDict, valid: Tensor, length: int) -> tuple[TensorDict, Tensor]:
    missing = length - valid.shape[1]
    if not missing:
        return decisions, valid
    filler = decisions[:, -1:].expand(len(valid), missing)
    return torch.cat([decisions, filler], 1), torch.cat(
        [valid, valid.new_zeros(len(valid), missing)], 1
    )
