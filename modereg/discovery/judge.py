"""What a steering policy commands, beside what the base reaches: stage 1's measure of itself."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.envs import EnvBase

from modereg import functional, keys
from modereg.discovery.cluster import ClusterModeDiscoverer
from modereg.discovery.verdict import REACHED, Verdict, losses, verdict_of
from modereg.discovery.worth import above_chance, worth_steering
from modereg.errors import ConfigurationError
from modereg.estimators import RewardEstimator, check_support
from modereg.reading import require
from modereg.residual import ChunkResidual
from modereg.rollouts import Episodes, collect_episodes
from modereg.steering import SteeringPolicy

__all__ = ["REACHED", "CodeJudge", "as_rows", "outcome_shares", "reached"]

TOLERANCE = 0.05
"""Success, or the entropy of the codes, may be so much below the base's before it counts as lost;
or by two standard errors of a share of 0.5, where there are fewer than 400 episodes."""


class CodeJudge(ABC):
    """Rolls a steering policy out and tells which codes reach themselves.

    Once :meth:`compare_with` has seen the base's episodes, a steering policy is accepted only if it
    loses neither modes nor success against them, and a code counts as learned if it is reached more
    often than by the base's own noise.

    Args:
        steering: the policy that is judged.
        discoverer: tells which code an episode belongs to; fitted.
        max_decisions: decisions of the longest episode; None reads ``env.layout``.
        success_key: entry of success; an episode without it counts as soon as it reached its code.
        labels: further entries of the last ``next`` to keep in the episodes that are returned.
    """

    residual: ChunkResidual | None = None

    def __init__(
        self,
        steering: SteeringPolicy,
        discoverer: ClusterModeDiscoverer,
        *,
        max_decisions: int | None = None,
        success_key: NestedKey = keys.SUCCESS,
        labels: tuple[NestedKey, ...] = (),
    ) -> None:
        if not isinstance(discoverer, ClusterModeDiscoverer):
            raise ConfigurationError(
                f"expected a ClusterModeDiscoverer, got {type(discoverer).__name__}, which learns "
                "beside a policy that maximises mi_reward"
            )
        if steering.head.log_std.in_features != discoverer.num_codes:
            raise ConfigurationError(
                f"expected a steering policy for {discoverer.num_codes} codes, the discoverer's, "
                f"got one for {steering.head.log_std.in_features}"
            )
        self.steering, self.discoverer = steering, discoverer
        self.max_decisions, self.success_key, self.labels = max_decisions, success_key, labels
        self.base: dict[str, float] = {}
        self.base_episodes = 0
        self.chance: Tensor | None = None
        self.learned = torch.ones_like(discoverer.centroids[:, 0], dtype=torch.bool)
        self.code_hits = torch.zeros_like(discoverer.centroids[:, 0])
        number = discoverer.num_codes
        self.counts = torch.zeros(number, number + 1, device=self.device)
        self.evidence = torch.zeros_like(self.counts)
        self.best: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """Where the discoverer lives, and episodes are judged."""
        return self.discoverer.centroids.device

    @property
    def judged(self) -> int:
        """How many episodes were judged last."""
        return int(self.counts.sum())

    @property
    def table(self) -> Tensor:
        """Share of each outcome among the episodes of a code that were judged last, ``[K, K + 1]``.

        The last is no code; zeros for a code that was not drawn.
        """
        return self.counts / self.counts.sum(1, keepdim=True).clamp_min(1)

    @property
    def trained(self) -> dict[str, nn.Module]:
        """What is learned and kept of the best round."""
        return {"steering": self.steering}

    @property
    @abstractmethod
    def entries(self) -> list[NestedKey]:
        """Entries of each decision that episodes must have."""

    @abstractmethod
    def begin(self, base: Episodes) -> dict[str, float]:
        """Take in the base's episodes, compare all that follows with them, and fit to them."""

    @abstractmethod
    def refine(
        self, env: EnvBase, episodes: int, *, std: float, next_std: float
    ) -> tuple[dict[str, float], Episodes]:
        """Roll out, judge what is commanded, and fit again.

        Args:
            env: steered environment with the discoverer's codes.
            episodes: number of episodes.
            std: standard deviation of the noise while rolling out.
            next_std: standard deviation afterwards.

        Returns:
            What :meth:`judge` gives of the steering policy before this fit, with the figures of the
            fit; and the episodes.
        """

    def final_entries(self, env: EnvBase) -> list[NestedKey]:
        """Entries of the last ``next`` that episodes must have, where the environment has them."""
        wanted = [self.discoverer.feature_key, self.discoverer.latent_key]
        optional = [self.success_key, *self.labels]
        there = env.observation_spec.keys(True, True)
        return list(dict.fromkeys([*wanted, *(key for key in optional if key in there)]))

    def compare_with(self, base: Episodes) -> None:
        """Remember what episodes of the base reach; what is fitted later is compared with it."""
        predicted, solved = self._reached(base)
        self.base = self._outcome(predicted, solved)
        self.chance = outcome_shares(predicted, solved, self.discoverer.num_codes)[:-1]
        self.base_episodes = len(base)

    @property
    def base_outcomes(self) -> Tensor:
        """Share of each outcome among the base's episodes, ``[K + 1]``; the last is no code."""
        if self.chance is None:
            raise ConfigurationError(
                "expected episodes of the base to compare with, got none; call compare_with first"
            )
        return torch.cat([self.chance, 1 - self.chance.sum(0, keepdim=True)])

    def roll_out(self, env: EnvBase, episodes: int) -> Episodes:
        """Return episodes of the steering policy, with all that :meth:`judge` reads."""
        return collect_episodes(
            env,
            episodes,
            max_decisions=self.max_decisions,
            policy=self.steering,
            keep=self.entries,
            final=self.final_entries(env),
        ).to(self.device)

    def judge(self, episodes: Episodes) -> dict[str, float]:
        """Return what episodes of the steering policy reach, and learn from it which codes learned.

        Returns:
            ``hits``, the share of its episodes in which a code is reached, with success, as a mean
            over codes; ``commanded``, the share of the codes for which it is at least 0.8;
            ``success`` and ``entropy``, of the codes that successful episodes reach, over log K;
            ``accepted``, 1.0 unless one of the last two is below the base's. ``code_hits`` has the
            hits of each code, ``[K]``.

        Raises:
            ConfigurationError: if an episode's code is none of the discoverer's.
        """
        predicted, solved = self._reached(episodes)
        figures, codes = self._outcome(predicted, solved), self._codes(episodes)
        num = self.discoverer.num_codes
        outcomes = torch.where(solved, predicted, num)
        self.counts = functional.contingency(codes, outcomes, num, num + 1)
        self.evidence += self._of_steered
        drawn = self.counts.sum(1).clamp_min(1)
        self.code_hits = self.table.diagonal().clone()
        self.learned = self.code_hits >= REACHED
        if self.chance is None:
            self.learned = torch.ones_like(self.learned)
        else:
            self.learned |= above_chance(self.code_hits, self.chance, drawn)
        margin = max(TOLERANCE, len(episodes) ** -0.5)
        kept = all(figures[name] >= value - margin for name, value in self.base.items())
        commanded = float((self.code_hits >= REACHED).float().mean())
        own = {"hits": float(self.code_hits.mean()), "commanded": commanded}
        return own | figures | {"accepted": float(kept)}

    def remember(self, figures: dict[str, float]) -> bool:
        """Keep the steering policy as it is, and say so, if it hits no less than any before."""
        if figures["hits"] < self.best.get("hits", 0.0):
            return False
        weights = {name: dict(part.state_dict()) for name, part in self.trained.items()}
        self.best = {"hits": figures["hits"], "weights": copy.deepcopy(weights)}
        return True

    def choose(self, figures: dict[str, float]) -> bool:
        """Go back to the best round, unless the newest is it.

        Args:
            figures: of :meth:`judge`, of the steering policy as it is.

        Returns:
            Whether the newest is the best: an earlier one must be judged again, since it is the
            best of several by luck too.
        """
        newest = self.remember(figures)
        self.evidence = self._of_steered if newest else torch.zeros_like(self.evidence)
        for name, part in self.trained.items():
            part.load_state_dict(self.best["weights"][name])
        return newest

    def weigh_up(self) -> tuple[Tensor, Tensor]:
        """Return the codes that are worth steering, ``[K]`` bool, and how often each is drawn.

        All that was judged of them since :meth:`choose` decides; a code that plays the base is not
        steered again. See :func:`~modereg.discovery.worth.worth_steering`.
        """
        drawn = self.evidence.sum(1)
        known = (self.steering.head.steered > 0) & (drawn > 0)
        table = self.evidence / drawn.clamp_min(1)[:, None]
        table = torch.where(known[:, None], table, self.base_outcomes)
        return worth_steering(table, self.base_outcomes, drawn)

    def settle(self, std: float = 0.3, chosen: tuple[Tensor, Tensor] | None = None) -> None:
        """Steer some codes, let the others play the base, and draw each as often as is good.

        Args:
            std: standard deviation of the steered codes.
            chosen: of :meth:`weigh_up`; None asks it.
        """
        self.learned, shares = self.weigh_up() if chosen is None else chosen
        self.steering.head.steer_only(self.learned, std)
        self.discoverer.estimator.prior.weigh(shares)

    def chance_shares(self) -> Tensor | None:
        """Return the share of each code's outcome that chance decides; None where nobody knows."""
        return None

    def losses(self) -> tuple[str, ...]:
        """Return a sentence on each thing in which what was judged last is worse than the base."""
        probs = self.discoverer.estimator.prior.probs.to(self.table)
        return losses(probs @ self.table, self.base_outcomes, self.judged, self.base_episodes)

    def verdict(self, figures: dict[str, float]) -> Verdict:
        """Return what became of each code.

        Args:
            figures: of :meth:`judge`, of the steering policy that is kept.
        """
        return verdict_of(
            self.table,
            self.base_outcomes,
            self.steering.head.steered > 0,
            self.discoverer.estimator.prior.probs.to(self.table),
            self.base_episodes,
            self.judged,
            figures,
            self.base,
            self.chance_shares(),
            residual=self.residual is not None,
        )

    @property
    def _of_steered(self) -> Tensor:
        """What was counted last, of the codes that are steered, ``[K, K + 1]``."""
        return (self.counts * (self.steering.head.steered > 0)[:, None]).to(self.evidence)

    def _codes(self, episodes: Episodes) -> Tensor:
        """Return the codes that episodes were played with, ``[N]``."""
        key = self.discoverer.latent_key
        codes = require(episodes.final, key, "the discovery of modes").to(self.device)
        check_support(self.discoverer.prior, codes, key)
        return codes

    def _reached(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """Return the code that q gives each episode, and whether it succeeded, each ``[N]``."""
        final = episodes.final.to(self.device)
        return reached(final, self.discoverer.estimator, self.success_key)

    def _outcomes(self, episodes: Episodes) -> Tensor:
        """Return the code that each episode reached with success, K for the others, ``[N]``."""
        predicted, solved = self._reached(episodes)
        return torch.where(solved, predicted, self.discoverer.num_codes)

    def _hits(self, episodes: Episodes) -> Tensor:
        return self._outcomes(episodes) == self._codes(episodes)

    def _outcome(self, predicted: Tensor, solved: Tensor) -> dict[str, float]:
        """Return success, and the entropy of the codes of what succeeded, of all if nothing did."""
        num, counted = self.discoverer.num_codes, predicted[solved] if solved.any() else predicted
        counts = torch.bincount(counted, minlength=num)
        entropy = float(functional.normalized_entropy(counts, num)) + 0.0  # none of -0.0
        return {"success": float(solved.float().mean()), "entropy": entropy}

    def state_dict(self) -> dict[str, Any]:
        """Return what later refinements read, as plain dictionaries of tensors and numbers."""
        return {
            "base": self.base,
            "chance": self.chance,
            "base_episodes": self.base_episodes,
            "learned": self.learned,
            "best": self.best,
            "code_hits": self.code_hits,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        self.base, self.best = state["base"], state["best"]
        self.base_episodes = state["base_episodes"]
        self.code_hits = state["code_hits"].to(self.device)
        self.learned = state["learned"].to(self.device)
        self.chance = None if state["chance"] is None else state["chance"].to(self.device)


def reached(
    final: TensorDictBase, estimator: RewardEstimator, success_key: NestedKey = keys.SUCCESS
) -> tuple[Tensor, Tensor]:
    """Return the code that q gives the end of each episode, and whether it succeeded, ``[N]`` each.

    Args:
        final: last entries of the episodes, ``[N]``; without success all succeeded.
        estimator: q.
        success_key: entry of success.
    """
    predicted = estimator.log_prob(final).argmax(-1)
    success = final.get(success_key, None)
    solved = torch.ones_like(predicted, dtype=torch.bool)
    return predicted, solved if success is None else success.squeeze(-1)


def outcome_shares(reached: Tensor, solved: Tensor, number: int) -> Tensor:
    """Return the share of episodes that reached each of so many with success, ``[number + 1]``.

    Args:
        reached: a code or mode of each episode, ``[N]`` int64; one below 0 counts as none.
        solved: whether it succeeded, ``[N]`` bool.
        number: K or M; the last share is of those that reached none.
    """
    outcomes = torch.where(solved & (reached >= 0), reached, number)
    return torch.bincount(outcomes, minlength=number + 1) / len(outcomes)


def as_rows(data: dict[str, Any]) -> TensorDict:
    """Return a dictionary of tensors that share their first dimension as a tensordict ``[n]``."""
    rows = TensorDict(data)
    return rows.auto_batch_size_(1)
