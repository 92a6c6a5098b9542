"""What the tests of policies share: a function of noise and observation, a policy, observations."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from modereg.policies import GenerativePolicy, as_generative_policy

__all__ = ["OBS", "SHAPE", "data", "policy", "shift"]

OBS, SHAPE = 3, (4, 2)


def shift(noise: Tensor, observation: Tensor) -> Tensor:
    return noise + observation[..., None, :2]


def policy(function: object = shift, **options: object) -> GenerativePolicy:
    given = {"in_keys": ["observation"], "noise_shape": SHAPE, "chunk_shape": SHAPE} | options
    return as_generative_policy(function, **given)


def data(*size: int, dtype: torch.dtype = torch.float32) -> TensorDict:
    return TensorDict({"observation": torch.randn(*size, OBS, dtype=dtype)}, size)
