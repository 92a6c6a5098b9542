"""From clusters of the base's episodes to a policy that commands them: fit, roll out, fit again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from modereg import keys
from modereg.discovery.cluster import ClusterModeDiscoverer
from modereg.discovery.imitation import NoiseImitation
from modereg.errors import ConfigurationError
from modereg.networks import MLP
from modereg.rollouts import Episodes, collect_episodes
from modereg.steering import SteeringPolicy

__all__ = ["REACHED", "SelfImitation", "annealed", "discover_modes"]

REACHED = 0.8
"""Share of its episodes in which a code must reach itself, with success, to count as commanded."""

KEPT_ROUNDS = 3
"""Refinements whose episodes are fitted together."""


class SelfImitation:
    """Makes a steering policy command what a fitted discoverer tells apart.

    :meth:`fit_base` imitates the noises of the base's episodes, cluster by cluster. Each
    :meth:`refine` then rolls out the steering policy, keeps the episodes that succeeded and that q
    gives to the code they were commanded, and fits to the last few rounds of them: the
    cross-entropy method over noises, with one target a code.

    Args:
        steering: the policy to fit.
        discoverer: tells which code an episode belongs to; fitted.
        max_decisions: decisions of the longest episode.
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
        max_decisions: int,
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

    @property
    def device(self) -> torch.device:
        """Where the discoverer lives, and episodes are judged."""
        return self.discoverer.centroids.device

    @property
    def entries(self) -> list[NestedKey]:
        """Entries of each decision that episodes must have for :meth:`fit_base`."""
        return [*self.steering.observation_keys, self.steering.action_key]

    def final_entries(self, env: EnvBase) -> list[NestedKey]:
        """Entries of the last ``next`` that episodes must have, where the environment has them."""
        wanted = [self.discoverer.feature_key, self.discoverer.latent_key]
        optional = [self.success_key, *self.labels]
        there = env.observation_spec.keys(True, True)
        return list(dict.fromkeys([*wanted, *(key for key in optional if key in there)]))

    def fit_base(self, episodes: Episodes, chosen: Tensor, steps: int) -> float:
        """Fit to episodes of the base, each with the code that q gives it.

        Args:
            episodes: with :attr:`entries` and :meth:`final_entries`.
            chosen: which of them to imitate, ``[N]`` bool.
            steps: gradient steps.

        Returns:
            The negative log-likelihood, nats per noise.
        """
        return self.fit_triples(self.triples(episodes, chosen), steps)

    def fit_triples(self, data: TensorDictBase, steps: int) -> float:
        """Standardise the network's inputs by the data and fit to it; see :meth:`fit_base`."""
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
        progress: Callable[[int], None] | None = None,
    ) -> tuple[dict[str, float], Episodes]:
        """Roll out, keep what reached its code, and fit again; without a hit nothing is fitted.

        Args:
            env: steered environment with the discoverer's codes.
            episodes: number of episodes.
            std: standard deviation of the noise while rolling out.
            next_std: standard deviation afterwards.
            steps: gradient steps.
            progress: called with the number of episodes so far while rolling out.

        Returns:
            ``hits`` (share of the episodes), ``commanded`` (share of the codes that reach
            themselves in at least 0.8 of their episodes, before this fit), ``nll`` if there was a
            fit; and the episodes.
        """
        self.steering.set_std(std)
        rolled = collect_episodes(
            env,
            episodes,
            max_decisions=self.max_decisions,
            policy=self.steering,
            keep=self.entries,
            final=self.final_entries(env),
            progress=progress,
        ).to(self.device)
        hits = self._hits(rolled)
        figures = {"hits": float(hits.float().mean()), "commanded": self._commanded(rolled, hits)}
        if bool(hits.any()):
            self.rounds = [*self.rounds, self.triples(rolled, hits)][-KEPT_ROUNDS:]
        if self.rounds:
            data = torch.cat(self.rounds)
            figures["nll"] = self.imitation.fit(data, self.discoverer.num_codes, steps)
        self.steering.set_std(next_std)
        return figures, rolled

    def triples(self, episodes: Episodes, chosen: Tensor) -> TensorDict:
        """Return observation, noise and q's code of the chosen episodes' decisions, ``[n]``."""
        episodes, chosen = episodes.to(self.device), chosen.to(self.device)
        codes = self.discoverer.log_prob(episodes.final).argmax(-1)
        decisions = episodes.decisions.select(*self.entries)
        decisions.set(self.discoverer.latent_key, codes[:, None].expand(episodes.valid.shape))
        return cast(TensorDict, decisions[episodes.valid & chosen[:, None]])

    def _hits(self, episodes: Episodes) -> Tensor:
        codes = episodes.final.get(self.discoverer.latent_key)
        reached = self.discoverer.log_prob(episodes.final).argmax(-1) == codes
        success = episodes.final.get(self.success_key, None)
        return reached if success is None else reached & success.squeeze(-1)

    def _commanded(self, episodes: Episodes, hits: Tensor) -> float:
        codes = episodes.final.get(self.discoverer.latent_key)
        drawn = torch.bincount(codes, minlength=self.discoverer.num_codes)
        reached = torch.bincount(codes[hits], minlength=self.discoverer.num_codes)
        return float((reached / drawn.clamp_min(1) >= REACHED).float().mean())

    def state_dict(self) -> dict[str, Any]:
        """Return the kept rounds as plain dictionaries of tensors."""
        return {"rounds": [part.to_dict() for part in self.rounds]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        self.rounds = [as_rows(part) for part in state["rounds"]]


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
    max_decisions: int,
    episodes: int = 4096,
    imitation_steps: int = 1500,
    refinements: int = 5,
    refine_steps: int = 400,
    std: tuple[float, float] = (0.7, 0.3),
    target: float = 0.95,
    validation: float = 0.0,
) -> list[dict[str, float]]:
    """Run stage 1 on what :func:`~modereg.wrapping.wrap` returned, in place.

    Afterwards ``discoverer`` is fitted and frozen, and ``steering`` commands its codes.

    Args:
        env: steered environment.
        steering: the steering policy.
        discoverer: not yet fitted.
        max_decisions: decisions of the longest episode.
        episodes: episodes of the base, and of each refinement.
        imitation_steps: gradient steps of the first fit.
        refinements: at most so many rounds of rolling out and fitting again.
        refine_steps: gradient steps of each.
        std: standard deviation of the noise in the first and the last refinement.
        target: stop once this share of the codes is commanded.
        validation: share of the noises that is held out of every fit and stops it.

    Returns:
        The figures of each step: clustering first, then :meth:`SelfImitation.refine`.
    """
    stage = SelfImitation(steering, discoverer, max_decisions=max_decisions, validation=validation)
    base = collect_episodes(
        env,
        episodes,
        max_decisions=max_decisions,
        keep=stage.entries,
        final=stage.final_entries(env),
    )
    figures = [discoverer.fit_episodes(base)]
    figures[0]["nll"] = stage.fit_base(base, discoverer.worth_imitating(base), imitation_steps)
    for number in range(refinements):
        spread = annealed(std, number, refinements), annealed(std, number + 1, refinements)
        row, _ = stage.refine(env, episodes, std=spread[0], next_std=spread[1], steps=refine_steps)
        figures.append(row)
        if row["commanded"] >= target:
            break
    return figures
