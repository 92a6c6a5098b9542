"""From clusters of the base's episodes to a policy that commands them: fit, roll out, fit again."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from modereg.discovery.cluster import ClusterModeDiscoverer
from modereg.discovery.imitation import NoiseImitation
from modereg.discovery.judge import CodeJudge
from modereg.networks import MLP
from modereg.rollouts import Episodes
from modereg.steering import SteeringPolicy

__all__ = ["SelfImitation", "annealed"]

KEPT_ROUNDS = 3
"""Refinements whose episodes are fitted together."""


class SelfImitation(CodeJudge):
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
        validation: share of the noises that is held out of every fit and stops it; see
            :class:`NoiseImitation`.
        options: of :class:`CodeJudge`.
    """

    def __init__(
        self,
        steering: SteeringPolicy,
        discoverer: ClusterModeDiscoverer,
        *,
        validation: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(steering, discoverer, **options)
        self.imitation = NoiseImitation(
            steering, validation=validation, latent_key=discoverer.latent_key
        )
        self.rounds: list[TensorDict] = []

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

    def state_dict(self) -> dict[str, Any]:
        """Return what later refinements read, as plain dictionaries of tensors and numbers."""
        return super().state_dict() | {"rounds": [part.to_dict() for part in self.rounds]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        super().load_state_dict(state)
        self.rounds = [as_rows(part).to(self.device) for part in state["rounds"]]


def as_rows(data: dict[str, Any]) -> TensorDict:
    """Return a dictionary of tensors that share their first dimension as a tensordict ``[n]``."""
    rows = TensorDict(data)
    return rows.auto_batch_size_(1)


def annealed(std: tuple[float, float], number: int, total: int) -> float:
    """Return the standard deviation of a refinement, geometric between the first and the last."""
    first, last = std
    return first * (last / first) ** min(number / max(total - 1, 1), 1.0)
