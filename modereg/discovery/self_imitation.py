"""From clusters of the base's episodes to a policy that commands them: fit, roll out, fit again."""

from __future__ import annotations

import copy
import warnings
from typing import Any, cast

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from modereg import functional, keys
from modereg.discovery.cluster import ClusterModeDiscoverer
from modereg.discovery.imitation import NoiseImitation
from modereg.errors import ConfigurationError
from modereg.estimators import check_support
from modereg.networks import MLP
from modereg.reading import require
from modereg.rollouts import Episodes, collect_episodes
from modereg.steering import SteeringPolicy

__all__ = ["REACHED", "SelfImitation", "annealed", "discover_modes"]

REACHED = 0.8
"""Share of its episodes in which a code must reach itself, with success, to count as commanded."""

TOLERANCE = 0.05
"""Success, or the entropy of the codes, may be so much below the base's before it counts as lost;
or by two standard errors of a share of 0.5, where there are fewer than 400 episodes."""

KEPT_ROUNDS = 3
"""Refinements whose episodes are fitted together."""


class SelfImitation:
    """Makes a steering policy command what a fitted discoverer tells apart.

    :meth:`fit_triples` imitates the noises of the base's episodes, cluster by cluster. Each
    :meth:`refine` then rolls out the steering policy, keeps the episodes that succeeded and that q
    gives to the code they were commanded, and fits to the last few rounds of them: the
    cross-entropy method over noises, with one target a code.

    Once :meth:`compare_with` has seen the base's episodes, a code that is reached no more often
    than by the base's own noise keeps that noise, N(0, I), and :meth:`settle` goes back to the last
    steering policy that loses neither modes nor success against the base.

    Args:
        steering: the policy to fit.
        discoverer: tells which code an episode belongs to; fitted.
        max_decisions: decisions of the longest episode; None reads ``env.layout``.
        success_key: entry of success; an episode without it counts as soon as it reached its code.
        validation: share of the noises that is held out of every fit and stops it; see
            :class:`NoiseImitation`.
        labels: further entries of the last ``next`` to keep in the episodes that are returned.
    """

    def __init__(
        self,
        steering: SteeringPolicy,
        discoverer: ClusterModeDiscoverer,
        *,
        max_decisions: int | None = None,
        success_key: NestedKey = keys.SUCCESS,
        validation: float = 0.0,
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
        self.imitation = NoiseImitation(
            steering, validation=validation, latent_key=discoverer.latent_key
        )
        self.rounds: list[TensorDict] = []
        self.base: dict[str, float] = {}
        self.chance: Tensor | None = None
        self.learned = torch.ones_like(discoverer.centroids[:, 0], dtype=torch.bool)
        self.code_hits = torch.zeros_like(discoverer.centroids[:, 0])
        self._accepted = copy.deepcopy(steering.state_dict())

    @property
    def device(self) -> torch.device:
        """Where the discoverer lives, and episodes are judged."""
        return self.discoverer.centroids.device

    @property
    def entries(self) -> list[NestedKey]:
        """Entries of each decision that episodes must have for :meth:`triples`."""
        return [*self.steering.observation_keys, self.steering.action_key]

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
        reached = torch.bincount(predicted[solved], minlength=self.discoverer.num_codes)
        self.chance = reached / len(base)

    def fit_triples(self, data: TensorDictBase, steps: int) -> float:
        """Standardise the network's inputs by the data and fit to it.

        Args:
            data: observation, noise and code of decisions, of :meth:`triples`.
            steps: gradient steps.

        Returns:
            The negative log-likelihood, nats per noise.
        """
        observed = torch.cat(
            [data.get(key).flatten(1) for key in self.steering.observation_keys], -1
        )
        network = self.steering.head.network
        if isinstance(network, MLP):
            network.features.fit(observed)
        return self.imitation.fit(data, self.discoverer.num_codes, steps)

    def refine(
        self,
        env: EnvBase,
        episodes: int,
        *,
        std: float,
        next_std: float,
        steps: int,
    ) -> tuple[dict[str, float], Episodes]:
        """Roll out, keep what reached its code, and fit again; without a hit nothing is fitted.

        Args:
            env: steered environment with the discoverer's codes.
            episodes: number of episodes.
            std: standard deviation of the noise while rolling out.
            next_std: standard deviation afterwards.
            steps: gradient steps.

        Returns:
            What :meth:`judge` gives of the steering policy before this fit, ``nll`` if there was
            a fit; and the episodes.
        """
        self.steering.head.set_std(std, self.learned)
        weights = copy.deepcopy(self.steering.state_dict())
        rolled = self.roll_out(env, episodes)
        figures = self.judge(rolled)
        if figures["accepted"]:
            self._accepted = weights
        hits = self._hits(rolled)
        if bool(hits.any()):
            self.rounds = [*self.rounds, self.triples(rolled, hits)][-KEPT_ROUNDS:]
        if self.rounds:
            data = torch.cat([*self.rounds, self._of_the_base(rolled)])
            figures["nll"] = self.imitation.fit(data, self.discoverer.num_codes, steps)
        self.steering.head.set_std(next_std, self.learned)
        return figures, rolled

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
            ``hits``, the share of the episodes that reach their code, with success; ``commanded``,
            the share of the codes that do so in at least 0.8 of theirs; ``success`` and
            ``entropy``, of the codes that successful episodes reach, over log K; ``accepted``, 1.0
            unless one of the last two is below the base's. ``code_hits`` has the hits of each
            code, ``[K]``.

        Raises:
            ConfigurationError: if an episode's code is none of the discoverer's.
        """
        figures = self._outcome(*self._reached(episodes))
        hits, codes = self._hits(episodes), self._codes(episodes)
        drawn = torch.bincount(codes, minlength=self.discoverer.num_codes).clamp_min(1)
        reached = torch.bincount(codes[hits], minlength=self.discoverer.num_codes)
        self.code_hits = reached / drawn
        self.learned = self.code_hits >= REACHED
        if self.chance is None:
            self.learned = torch.ones_like(self.learned)
        else:
            error = (self.chance * (1 - self.chance) / drawn).sqrt()
            self.learned |= self.code_hits > self.chance + 2 * error
        margin = max(TOLERANCE, len(episodes) ** -0.5)
        kept = all(figures[name] >= value - margin for name, value in self.base.items())
        commanded = float((self.code_hits >= REACHED).float().mean())
        own = {"hits": float(hits.float().mean()), "commanded": commanded}
        return own | figures | {"accepted": float(kept)}

    def settle(self, figures: dict[str, float]) -> None:
        """Go back to the last accepted steering policy, if the last fit is not; warn if it is poor.

        Args:
            figures: of :meth:`judge`, of the steering policy as it is.
        """
        if not figures["accepted"]:
            self.steering.load_state_dict(self._accepted)
        if figures["accepted"] and figures["commanded"] > 0:
            return
        total = self.discoverer.num_codes
        compared = "; ".join(
            f"{name} {figures[name]:.2f}, base {value:.2f}" for name, value in self.base.items()
        )
        back = "" if figures["accepted"] else "it went back to the last that loses neither, and "
        warnings.warn(
            f"stage 1: {round(figures['commanded'] * total)} of {total} codes command; {compared}; "
            f"{back}a fine-tuning that starts here keeps little: collect more episodes, ask for "
            "fewer codes, or name features that tell behaviours apart",
            stacklevel=3,
        )

    def triples(self, episodes: Episodes, chosen: Tensor) -> TensorDict:
        """Return observation, noise and q's code of the chosen episodes' decisions, ``[n]``."""
        return self._rows(episodes.to(self.device), self._reached(episodes)[0], chosen)

    def _of_the_base(self, episodes: Episodes) -> TensorDict:
        """Return decisions of the codes that did not learn, with noise as the base draws it."""
        codes = self._codes(episodes)
        rows = self._rows(episodes, codes, ~self.learned[codes])
        return rows.set(self.steering.action_key, torch.randn_like(rows[self.steering.action_key]))

    def _rows(self, episodes: Episodes, codes: Tensor, chosen: Tensor) -> TensorDict:
        decisions = episodes.decisions.select(*self.entries)
        decisions.set(self.discoverer.latent_key, codes[:, None].expand(episodes.valid.shape))
        return cast(TensorDict, decisions[episodes.valid & chosen.to(self.device)[:, None]])

    def _codes(self, episodes: Episodes) -> Tensor:
        """Return the codes that episodes were played with, ``[N]``."""
        key = self.discoverer.latent_key
        codes = require(episodes.final, key, "the discovery of modes").to(self.device)
        check_support(self.discoverer.prior, codes, key)
        return codes

    def _reached(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """Return the code that q gives each episode, and whether it succeeded, each ``[N]``."""
        final = episodes.final.to(self.device)
        predicted = self.discoverer.log_prob(final).argmax(-1)
        success = final.get(self.success_key, None)
        solved = torch.ones_like(predicted, dtype=torch.bool)
        return predicted, solved if success is None else success.squeeze(-1)

    def _hits(self, episodes: Episodes) -> Tensor:
        predicted, solved = self._reached(episodes)
        return (predicted == self._codes(episodes)) & solved

    def _outcome(self, predicted: Tensor, solved: Tensor) -> dict[str, float]:
        """Return success, and the entropy of the codes of what succeeded, of all if nothing did."""
        num, counted = self.discoverer.num_codes, predicted[solved] if solved.any() else predicted
        counts = torch.bincount(counted, minlength=num)
        entropy = float(functional.normalized_entropy(counts, num)) + 0.0  # none of -0.0
        return {"success": float(solved.float().mean()), "entropy": entropy}

    def state_dict(self) -> dict[str, Any]:
        """Return what later refinements read, as plain dictionaries of tensors and numbers."""
        return {
            "rounds": [part.to_dict() for part in self.rounds],
            "base": self.base,
            "chance": self.chance,
            "learned": self.learned,
            "accepted": dict(self._accepted),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        self.rounds = [as_rows(part).to(self.device) for part in state["rounds"]]
        self.base, self._accepted = state["base"], state["accepted"]
        self.learned = state["learned"].to(self.device)
        self.chance = None if state["chance"] is None else state["chance"].to(self.device)


def as_rows(data: dict[str, Any]) -> TensorDict:
    """Return a dictionary of tensors that share their first dimension as a tensordict ``[n]``."""
    rows = TensorDict(data)
    return rows.auto_batch_size_(1)


def annealed(std: tuple[float, float], number: int, total: int) -> float:
    """Return the standard deviation of a refinement, geometric between the first and the last."""
    first, last = std
    return first * (last / first) ** min(number / max(total - 1, 1), 1.0)


def discover_modes(
    env: EnvBase,
    steering: SteeringPolicy,
    discoverer: ClusterModeDiscoverer,
    *,
    max_decisions: int | None = None,
    episodes: int = 4096,
    imitation_steps: int = 1500,
    refinements: int = 5,
    refine_steps: int = 400,
    std: tuple[float, float] = (0.7, 0.3),
    target: float = 0.95,
    validation: float = 0.0,
) -> list[dict[str, Any]]:
    """Run stage 1 on what :func:`~modereg.wrapping.wrap` returned, in place.

    Afterwards ``discoverer`` is fitted and frozen, and ``steering`` commands its codes.

    Args:
        env: steered environment.
        steering: the steering policy.
        discoverer: not yet fitted.
        max_decisions: decisions of the longest episode; None reads ``env.layout``.
        episodes: episodes of the base, of each refinement, and to judge the last.
        imitation_steps: gradient steps of the first fit.
        refinements: at most so many rounds of rolling out and fitting again.
        refine_steps: gradient steps of each.
        std: standard deviation of the noise in the first and the last refinement.
        target: stop once this share of the codes is commanded.
        validation: share of the noises that is held out of every fit and stops it.

    Returns:
        The figures of each step: clustering first, then :meth:`SelfImitation.refine`, and at last
        :meth:`SelfImitation.judge` of what the last one made; ``code_hits`` has each code's.

    Warns:
        UserWarning: if no code commands, or if the last fit lost modes or success against the base
            and was not accepted.
    """
    stage = SelfImitation(steering, discoverer, max_decisions=max_decisions, validation=validation)
    base = collect_episodes(
        env,
        episodes,
        max_decisions=max_decisions,
        keep=stage.entries,
        final=stage.final_entries(env),
    )
    figures: list[dict[str, Any]] = [discoverer.fit_episodes(base)]
    stage.compare_with(base)
    data = stage.triples(base, discoverer.worth_imitating(base))
    figures[0]["nll"] = stage.fit_triples(data, imitation_steps)
    for number in range(refinements):
        spread = annealed(std, number, refinements), annealed(std, number + 1, refinements)
        row, _ = stage.refine(env, episodes, std=spread[0], next_std=spread[1], steps=refine_steps)
        figures.append(row | {"code_hits": stage.code_hits.tolist()})
        if row["commanded"] >= target:
            break
    row = stage.judge(stage.roll_out(env, episodes))
    stage.settle(row)
    return [*figures, row | {"code_hits": stage.code_hits.tolist()}]
