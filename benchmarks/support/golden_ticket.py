"""One constant noise instead of a policy: the best of many, by Monte-Carlo search."""

from __future__ import annotations

import math
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg.learners.base import Problem
from modereg.networks import MLP
from modereg.seeding import derived_seed

from .first_episodes import MASK, first_episodes
from .rivals import TicketConfig

__all__ = ["GoldenTicket"]

TICKETS = 8
"""Sets the seeds of a run's tickets apart from others."""

BOUND, STD = 6.0, 0.055
"""Of the noise's mean, so that it can be any ticket; and its deviation, near the least it has."""


class GoldenTicket:
    """Draws noises from N(0, I), plays each in m episodes, and keeps the one that returned most.

    After "You Have a Golden Ticket" (arXiv 2603.15757): the base policy decodes one and the same
    noise at every decision of every episode. Each batch tries as many fresh noises as its rows
    allow, so the budget of environment steps says how many are tried. The mean of the steering
    policy is the best noise so far, whatever the observation, with a small standard deviation where
    the noise is sampled. The best of many is judged too well by its own m episodes (its
    ``ticket_return`` in the curves); evaluations play fresh ones.

    Args:
        problem: what is improved.
        config: options.

    Raises:
        ConfigurationError: if rows cannot be shared among tickets, or the steering policy's network
            is no :class:`~modereg.networks.MLP`.
    """

    checkpoint_every = 1

    def __init__(self, problem: Problem, config: TicketConfig) -> None:
        rows, head = problem.env.batch_size.numel(), problem.steering.head
        if rows % config.episodes:
            raise ConfigurationError(
                f"expected episodes that divide the {rows} environments, got {config.episodes}"
            )
        if not isinstance(head.network, MLP):
            raise ConfigurationError(
                f"expected a steering policy on an MLP, got {type(head.network).__name__}"
            )
        self.problem, self.steering, self.episodes = problem, problem.steering, config.episodes
        self.batches, self.tickets, self.best = 0, torch.empty(0), -math.inf
        self.last = head.network.layers[-1]
        head.mean_bound = BOUND
        self.steering.set_std(STD)
        with torch.no_grad():
            self.last.weight.zero_()

    def collect(self) -> TensorDictBase:
        """Return a batch ``[B, T]``, in which row b plays ticket b // m."""
        seed = self.problem.seed
        rows, shape = self.problem.env.batch_size.numel(), self.steering.noise_shape
        generator = torch.Generator().manual_seed(derived_seed(seed, TICKETS, self.batches, 1))
        self.tickets = torch.randn((rows // self.episodes, *shape), generator=generator)
        noise = self.tickets.repeat_interleave(self.episodes, 0).to(self.last.bias.device)
        read, written = [self.steering.latent_key], [self.steering.action_key]
        play = TensorDictModule(lambda _: noise.clone(), read, written)
        self.batches += 1
        return first_episodes(self.problem.env, play, derived_seed(seed, TICKETS, self.batches))

    def update(self, batch: TensorDictBase) -> dict[str, float]:
        """Keep the best ticket of a batch if it returned more than the best so far."""
        reward = batch.get(("next", self.problem.reward_key)).squeeze(-1)
        returns = reward.where(batch.get(MASK), 0.0).sum(1)
        means = returns.unflatten(0, (-1, self.episodes)).mean(1)
        if float(means.max()) > self.best:
            self.best = float(means.max())
            self._take(self.tickets[int(means.argmax())])
        return {"ticket_return": self.best, "tickets": float(self.batches * len(means))}

    @torch.no_grad()
    def _take(self, ticket: Tensor) -> None:
        """Make a noise the mean of the steering policy: b tanh(m / b) of the last bias m."""
        within = (ticket.flatten() / BOUND).clamp(-0.999, 0.999)
        self.last.bias.copy_(BOUND * torch.atanh(within))

    def state_dict(self) -> dict[str, Any]:
        """Return what changes between batches."""
        steering = dict(self.steering.state_dict())
        return {"steering": steering, "batches": self.batches, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        self.steering.load_state_dict(state["steering"])
        self.batches, self.best = state["batches"], state["best"]
