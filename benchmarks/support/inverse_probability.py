"""Inverse probability scaling: the less often an outcome is seen, the more its return counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.envs import RewardSum

from modereg import keys
from modereg.checkpoints import load_adapter
from modereg.devices import module_device
from modereg.discovery.judge import outcome_shares, reached
from modereg.errors import ConfigurationError
from modereg.estimators import RewardEstimator
from modereg.learners.base import Learner, Problem
from modereg.reading import in_next, valid_rows

__all__ = ["IPS", "IPSReward", "with_ips"]

KEY = "ips_reward"


class IPSReward:
    r"""Pays :math:`(R - R_0) / (K p(o))` for an episode of the return R and the outcome o.

    IPS (arXiv 2601.21669). Its fixed point is a policy with :math:`\pi(o) \propto R(o) - R_0`,
    where the return alone has one with all on the best outcome. An outcome is the code that q reads
    off an episode that succeeded, one of K, or else failure; p is its running share. K keeps the
    size of the return where all outcomes are equally frequent. The task's reward stays where it is,
    and what is missing is paid as the episode ends, undiscounted.

    A probability can only divide what is not negative: a loss of -1 in a rare outcome would become
    one of -100, and drive the policy from what is rare to what is frequent, the opposite of what is
    meant. So returns are counted from :math:`R_0`, ``floor``, the lowest that there is. It is part
    of the objective: the higher the returns lie above it, the less their differences matter.

    Args:
        estimator: q, of discrete codes, which reads the end of an episode.
        floor: R_0.
        window: the latest episodes of which shares are taken; they begin equal.
        least: share below which p counts as so large, so that one episode does not outweigh a
            batch.
        success: whether there is a success to read; else all episodes count as one.
    """

    def __init__(
        self,
        estimator: RewardEstimator,
        *,
        floor: float,
        window: int,
        least: float,
        success: bool = True,
    ) -> None:
        number = estimator.prior.num_codes
        if number is None:
            raise ConfigurationError(f"expected discrete codes, got {estimator.prior!r}")
        self.estimator, self.number = estimator, number
        self.floor, self.window, self.least = floor, window, least
        self.success = [keys.SUCCESS] * success
        self.shares = torch.full((number + 1,), 1 / (number + 1), device=module_device(estimator))
        self.count = float(number + 1)

    @property
    def reads(self) -> list[NestedKey]:
        """Entries of a transition that decide what is paid: what a replay buffer must keep."""
        after = [keys.REWARD, keys.EPISODE_REWARD, "done", *self.success]
        return [in_next(key) for key in (*after, *self.estimator.in_keys)]

    @torch.no_grad()
    def update(self, batch: TensorDictBase) -> dict[str, float]:
        """Learn from the episodes that end in a batch ``[*B]`` how frequent outcomes are.

        Raises:
            ConfigurationError: if a return lies below the floor.
        """
        valid = valid_rows(batch)
        data = batch.reshape(-1) if valid is None else batch[valid]
        ended = data.get("next")[self._done(data)]
        if len(ended):
            lowest = float(ended.get(keys.EPISODE_REWARD).min())
            if lowest < self.floor:
                raise ConfigurationError(
                    f"expected returns of at least the floor {self.floor}, got {lowest}: divided "
                    "by a probability, they would drive the policy away from rare outcomes; give "
                    "the lowest return that there is as learner.floor"
                )
            found = outcome_shares(*self._reached(ended), self.number).to(self.shares)
            self.count = min(self.count + len(ended), self.window)
            self.shares += min(len(ended) / self.count, 1.0) * (found - self.shares)
        return {"share_min": float(self.shares[:-1].min()), "share_fails": float(self.shares[-1])}

    @torch.no_grad()
    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        """Write ``ips_reward`` into ``next`` of transitions ``[*B]``, and return them."""
        done, after = self._done(batch), batch.get("next")
        reward = after.get(keys.REWARD)
        paid = reward.clone()
        ended = after[done]
        if len(ended):
            codes, solved = self._reached(ended)
            outcome = torch.where(solved, codes, self.number)
            probability = self.shares[outcome].clamp_min(self.least).unsqueeze(-1).to(reward)
            total = ended.get(keys.EPISODE_REWARD)
            paid[done] += (total - self.floor) / (self.number * probability) - total
        after.set(KEY, paid)
        return batch

    def _reached(self, ended: TensorDictBase) -> tuple[Tensor, Tensor]:
        return reached(ended.to(self.shares.device), self.estimator)

    def _done(self, batch: TensorDictBase) -> Tensor:
        return batch.get(("next", "done")).squeeze(-1)


class IPS:
    """A learner whose reward is paid by :class:`IPSReward`.

    Args:
        learner: reads ``ips_reward``.
        reward: pays it.
    """

    def __init__(self, learner: Learner, reward: IPSReward) -> None:
        self.learner, self.reward = learner, reward
        self.checkpoint_every, self.collect = learner.checkpoint_every, learner.collect

    def update(self, batch: TensorDictBase) -> dict[str, float]:
        """Learn how frequent outcomes are, pay, and learn from that."""
        figures = self.reward.update(batch)
        return figures | self.learner.update(self.reward(batch))

    def state_dict(self) -> dict[str, Any]:
        """Return what changes between batches."""
        shares, count = self.reward.shares.clone(), self.reward.count
        return {"learner": self.learner.state_dict(), "shares": shares, "count": count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        self.learner.load_state_dict(state["learner"])
        self.reward.shares.copy_(state["shares"])
        self.reward.count = state["count"]


def with_ips(make: Callable[[Problem], Learner], problem: Problem, config: Any) -> IPS:
    """Return the learner of a problem that reads the rewards of :class:`IPSReward`.

    Args:
        make: makes the learner.
        problem: what is improved.
        config: has ``outcomes``, ``floor``, ``window`` and ``least``.

    Raises:
        ConfigurationError: if the run has no q, or one of continuous codes, or another layout.
        CheckpointError: if it is of another base.
    """
    adapter = load_adapter(Path(config.outcomes) / "adapter", problem.base, problem.layout)
    if adapter.estimator is None:
        raise ConfigurationError(f"expected a run of discover with q, got {config.outcomes}")
    device = module_device(problem.steering)
    estimator = adapter.estimator.to(device).requires_grad_(False)
    options = {name: getattr(config, name) for name in ("floor", "window", "least")}
    there = set(problem.env.observation_spec.keys(True, True))
    reward = IPSReward(estimator, success=keys.SUCCESS in there, **options)
    if keys.EPISODE_REWARD not in there:
        problem.env.append_transform(RewardSum([keys.REWARD], [keys.EPISODE_REWARD]))
    paid = replace(problem, reward_key=KEY, mi_reward=cast(Any, reward))
    return IPS(make(paid), reward)
