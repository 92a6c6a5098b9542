"""What the tests of policies share: functions and flows of noise and observation, observations."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from modereg.policies import (
    DenoisingChain,
    FlowPolicy,
    GenerativePolicy,
    as_generative_policy,
    freeze,
)

__all__ = ["OBS", "SHAPE", "Velocity", "changed", "data", "flow", "policy", "shift"]

OBS, SHAPE = 3, (4, 2)


def shift(noise: Tensor, observation: Tensor) -> Tensor:
    return noise + observation[..., None, :2]


def policy(function: object = shift, **options: object) -> GenerativePolicy:
    given = {"in_keys": ["observation"], "noise_shape": SHAPE, "chunk_shape": SHAPE} | options
    return as_generative_policy(function, **given)


def data(*size: int, dtype: torch.dtype = torch.float32) -> TensorDict:
    return TensorDict({"observation": torch.randn(*size, OBS, dtype=dtype)}, size)


class Velocity(nn.Module):
    """A small velocity field of chunks of :data:`SHAPE`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8 + 1 + OBS, 32), nn.Tanh(), nn.Linear(32, 8))

    def forward(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        inputs = torch.cat([x.flatten(-2), t.unsqueeze(-1), observation], -1)
        return self.net(inputs).unflatten(-1, SHAPE)


def flow(convention: Any = "noise_at_0", num_steps: int = 5, **options: Any) -> FlowPolicy:
    """Return a frozen flow, the same one each time."""
    torch.manual_seed(3)
    given = {"observation_keys": ["observation"], "chunk_shape": SHAPE} | options
    velocity = given.pop("velocity", None) or Velocity()
    made = FlowPolicy(velocity, time_convention=convention, num_steps=num_steps, **given)
    return freeze(made)


def changed(chain: DenoisingChain) -> DenoisingChain:
    """Move the trained weights away from the base's."""
    with torch.no_grad():
        for value in chain.tuned.parameters():
            if value.requires_grad:
                value.add_(0.3 * torch.randn_like(value))
    return chain
