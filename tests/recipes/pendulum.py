"""A policy of one's own for Gymnasium's pendulum, as a user's module would hold it."""

from __future__ import annotations

import torch
from torch import Tensor

from modereg import keys
from modereg.policies import GenerativePolicy, as_generative_policy


def swing(noise: Tensor, observation: Tensor) -> Tensor:
    """Push with the swing, more or less: the noise's mean says on which side to go on."""
    side = noise.mean((-1, -2), keepdim=True).sign()
    speed = observation[..., 2:].unsqueeze(-1)
    return 2 * torch.tanh(0.5 * speed + side + 0.1 * noise)


def policy() -> GenerativePolicy:
    """Return chunks of 8 torques."""
    return as_generative_policy(
        swing, in_keys=[keys.OBSERVATION], noise_shape=(8, 1), chunk_shape=(8, 1)
    )
