"""The tiny policy keeps the contract, and the check of the contract is sharp."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from modereg.policies import GenerativePolicy, as_generative_policy
from modereg.testing import CountingEnv, TinyPolicy, check_generative_policy


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tiny_policy_keeps_the_contract(dtype: torch.dtype):
    td = CountingEnv([9] * 3, start_noise=1.0, dtype=dtype).reset()
    check_generative_policy(TinyPolicy(3, (4, 2), (5,), dtype=dtype), td, dtype=dtype)


def _policy(function: Callable[..., torch.Tensor]) -> GenerativePolicy:
    return as_generative_policy(
        function, in_keys=["observation"], noise_shape=(4, 2), chunk_shape=(4, 2)
    )


BROKEN = {
    "not deterministic": lambda noise, observation: noise + torch.randn_like(noise),
    "does not depend on the noise": lambda noise, observation: torch.zeros_like(noise),
    "does not decode rows independently": lambda noise, observation: noise - noise.mean(0),
    "not differentiable": lambda noise, observation: noise.detach(),
    "no finite, non-zero gradient": lambda noise, observation: noise.sign() + 0.0 * noise,
    "declares": lambda noise, observation: noise[:, :3],
    "into torch.float64.*return chunk.to": lambda noise, observation: noise.double(),
    # A semantic fault comes before a convention that is broken too.
    "two noises decode into one chunk; start": lambda noise, _: torch.zeros_like(noise).double(),
    "by argmax or rounding": lambda noise, _: torch.nn.functional.one_hot(noise.argmax(-1), 2).to(
        noise
    ),
    "BatchNorm is in train mode": lambda noise, _: noise / (1 + noise.square().mean(0)),
    "two batch dimensions": lambda noise, _: torch.bmm(
        noise, torch.eye(2).expand(len(noise), 2, 2)
    ),
    "no batch dimension": lambda noise, _: noise.sin() + 0 * noise.sum(-3, keepdim=True),
    "NaN or infinity": lambda noise, observation: noise / 0.0,
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_the_contract_check_says_what_is_broken(sentence: str):
    td = CountingEnv([9] * 3, start_noise=1.0).reset()
    with pytest.raises(AssertionError, match=sentence):
        check_generative_policy(_policy(BROKEN[sentence]), td)


def test_a_graph_that_nobody_asked_for_is_found():
    weight = torch.ones((), requires_grad=True)
    td = CountingEnv([9] * 3, start_noise=1.0).reset()
    with pytest.raises(AssertionError, match="builds a graph"):
        check_generative_policy(_policy(lambda noise, observation: noise * weight), td)
