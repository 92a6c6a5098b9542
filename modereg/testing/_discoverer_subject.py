"""A factory of discoverers with the data that fit them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase

from modereg.discovery import ModeDiscoverer
from modereg.testing._planted import Planted

__all__ = ["MakeDiscoverer", "Subject", "refuses"]

MakeDiscoverer = Callable[[], ModeDiscoverer]


@dataclass
class Subject:
    """A factory with the data that fit its discoverers."""

    make: MakeDiscoverer
    planted: Planted
    rounds: int
    seed: int
    name: str

    def fresh(self) -> ModeDiscoverer:
        """Make a discoverer, and start from the seed."""
        torch.manual_seed(self.seed)
        return self.make()

    def train(self, discoverer: ModeDiscoverer, shift: int = 0) -> list[dict[str, float]]:
        """Observe and update for some rounds, in each on fresh episodes."""
        metrics = []
        for number in range(self.rounds):
            discoverer.observe(self.planted.rollout(100 + number, shift))
            metrics.append(discoverer.update())
        return metrics

    def learn(self, *rollouts: TensorDictBase) -> Any:
        """Return metrics and state of a fresh discoverer after one update on these rollouts."""
        discoverer = self.fresh()
        for rollout in rollouts:
            discoverer.observe(rollout)
        return self.updated(discoverer)

    def updated(self, discoverer: ModeDiscoverer) -> Any:
        """Return metrics and state after an update."""
        torch.manual_seed(self.seed)
        return discoverer.update(), dict(discoverer.state_dict())


def refuses(kind: type[Exception], subject: Subject, rollout: TensorDictBase) -> bool:
    """Return whether a fresh discoverer refuses a rollout with an error of this kind."""
    try:
        subject.learn(rollout)
    except kind:
        return True
    except Exception as error:
        raise AssertionError(
            f"{subject.name} raised {type(error).__name__} where {kind.__name__} is expected: "
            f"{error}"
        ) from error
    return False
