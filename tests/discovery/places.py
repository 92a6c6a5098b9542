"""What the tests of stage 1's judge share: three places that episodes end at, and their noises."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict
from torch import Tensor

from modereg import keys
from modereg.discovery import ClusterModeDiscoverer, SelfImitation
from modereg.rollouts import Episodes
from modereg.steering import SteeringPolicy

PLACES = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0]])
NOISES = torch.tensor([[1.5, 0.0], [-1.5, 0.0], [0.0, 1.5]])
BASE = [0] * 200 + [1] * 200 + [2] * 200


def discoverer_of_places() -> ClusterModeDiscoverer:
    """Return a fitted discoverer of the three places."""
    torch.manual_seed(0)
    discoverer = ClusterModeDiscoverer(2, 3, steps=150, hidden=(16,), noise=0.2)
    discoverer.fit(PLACES[torch.tensor(BASE)] + 0.2 * torch.randn(600, 2))
    return discoverer


def codes_of(discoverer: ClusterModeDiscoverer) -> Tensor:
    """Return the code of each place."""
    places = TensorDict({keys.HISTORY: PLACES}, [3])
    return discoverer.log_prob(places).argmax(-1)


def stage_of(discoverer: ClusterModeDiscoverer, **options: int) -> SelfImitation:
    """Return the simplest stage, whose policy is the base."""
    torch.manual_seed(0)
    steering = SteeringPolicy([keys.OBSERVATION], 1, 3, (1, 2))
    return SelfImitation(steering, discoverer, **options)


def episodes_to(
    discoverer: ClusterModeDiscoverer,
    places: Sequence[int],
    commanded: Sequence[int],
    success: float = 1.0,
) -> Episodes:
    """Return episodes of two decisions that end in a place though another one was commanded."""
    torch.manual_seed(1)
    place, number = torch.tensor(places), len(places)
    codes = codes_of(discoverer)[torch.tensor(commanded)]
    noise = NOISES[place][:, None, None] + 0.1 * torch.randn(number, 2, 1, 2)
    observed = {keys.OBSERVATION: torch.rand(number, 2, 1), keys.ACTION: noise}
    solved = torch.arange(number) % 100 < 100 * success
    final = {
        keys.HISTORY: PLACES[place],
        keys.LATENT: codes,
        keys.SUCCESS: solved.unsqueeze(-1),
    }
    return Episodes(
        decisions=TensorDict(observed, [number, 2]),
        valid=torch.ones(number, 2, dtype=torch.bool),
        final=TensorDict(final, [number]),
        returns=torch.zeros(number),
        env_steps=torch.full((number,), 2),
        spent=2 * number,
        clipped=0.0,
    )


def drawn(steering: SteeringPolicy) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the noise of each code, ``[3, 2]``."""
    features = torch.eye(3).repeat_interleave(50, 0)
    data = TensorDict({keys.OBSERVATION: torch.rand(150, 1), keys.LATENT_FEATURES: features}, [150])
    with torch.no_grad():
        found = steering.distribution(data)
    means = found.mean.reshape(3, 50, 2).mean(1)
    return means, found.stddev.reshape(3, 50, 2).mean(1)
