"""Base policies of another make for the Gaussian mixture."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from modereg import keys
from modereg.policies import GenerativePolicy, as_generative_policy
from modereg.testing import TinyPolicy


def policy() -> GenerativePolicy:
    """Return chunks of 4 steps in the plane."""
    return TinyPolicy(2, scale=0.1)


def heading() -> GenerativePolicy:
    """Return what goes where its first noise says, and on where it is going; it is cheap."""
    return _heading(lambda noise: noise)


def heading_without_gradient() -> GenerativePolicy:
    """Return the same, of which nobody knows a gradient."""
    return _heading(lambda noise: noise.detach())


def _heading(read: Callable[[Tensor], Tensor]) -> GenerativePolicy:
    def decode(noise: Tensor, position: Tensor) -> Tensor:
        aim = 2 * read(noise).mean(-2) + 3 * position
        return 0.08 * (4 * aim).tanh().unsqueeze(-2).expand(noise.shape)

    return as_generative_policy(
        decode, in_keys=[keys.OBSERVATION], noise_shape=(4, 2), chunk_shape=(4, 2)
    )
