"""From clusters of the base's episodes to a policy that commands them: fit, roll out, fit again."""

from __future__ import annotations

from typing import Any, cast

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from modereg.discovery.cluster import ClusterModeDiscoverer
from modereg.discovery.imitation import NoiseImitation
from modereg.discovery.judge import CodeJudge, as_rows
from modereg.rollouts import Episodes
from modereg.steering import SteeringPolicy

__all__ = ["SelfImitation"]

KEPT_ROUNDS = 3
"""Refinements whose episodes are fitted together."""


class SelfImitation(CodeJudge):
    """Makes a steering policy command what a fitted discoverer tells apart.

    :meth:`begin` imitates the noises of the base's episodes, cluster by cluster. Each
    :meth:`refine` then rolls out the steering policy, keeps the episodes that succeeded and that q
    gives to the code they were commanded, and fits to the last few rounds of them: the
    cross-entropy method over noises, with one target a code.

    A code that is reached no more often than by the base's own noise keeps that noise, N(0, I).

    Args:
        steering: the policy to fit.
        discoverer: tells which code an episode belongs to; fitted.
        imitation_steps: gradient steps of the first fit.
        refine_steps: gradient steps of a refinement.
        validation: share of the noises that is held out of every fit and stops it; see
            :class:`NoiseImitation`.
        options: of :class:`CodeJudge`.
    """

    def __init__(
        self,
        steering: SteeringPolicy,
        discoverer: ClusterModeDiscoverer,
        *,
        imitation_steps: int = 1500,
        refine_steps: int = 400,
        validation: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(steering, discoverer, **options)
        self.imitation = NoiseImitation(
            steering, validation=validation, latent_key=discoverer.latent_key
        )
        self.imitation_steps, self.refine_steps = imitation_steps, refine_steps
        self.rounds: list[TensorDict] = []

    @property
    def entries(self) -> list[NestedKey]:
        """Entries of each decision that episodes must have for :meth:`triples`."""
        return [*self.steering.observation_keys, self.steering.action_key]

    def begin(self, base: Episodes) -> dict[str, float]:
        """Imitate the noises of the base's episodes, cluster by cluster."""
        self.compare_with(base)
        data = self.triples(base, self.discoverer.worth_imitating(base))
        return {"nll": self.fit_triples(data, self.imitation_steps)}

    def fit_triples(self, data: TensorDictBase, steps: int) -> float:
        """Standardise the network's inputs by the data and fit to it.

        Args:
            data: observation, noise and code of decisions, of :meth:`triples`.
            steps: gradient steps.

        Returns:
            The negative log-likelihood, nats per noise.
        """
        self.steering.fit_inputs(data)
        return self.imitation.fit(data, self.discoverer.num_codes, steps)

    def refine(
        self, env: EnvBase, episodes: int, *, std: float, next_std: float
    ) -> tuple[dict[str, float], Episodes]:
        """Roll out, keep what reached its code, and fit again; without a hit nothing is fitted."""
        self.steering.head.set_std(std, self.learned)
        rolled = self.roll_out(env, episodes)
        figures = self.judge(rolled)
        self.remember(figures)
        hits = self._hits(rolled)
        if bool(hits.any()):
            self.rounds = [*self.rounds, self.triples(rolled, hits)][-KEPT_ROUNDS:]
        if self.rounds:
            data = torch.cat([*self.rounds, self._of_the_base(rolled)])
            figures["nll"] = self.imitation.fit(data, self.discoverer.num_codes, self.refine_steps)
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
