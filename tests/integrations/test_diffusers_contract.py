"""The adapter keeps modereg's contract of a policy, in every type, and compiles."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import diffusers
import pytest
import torch
from tensordict import TensorDict

from modereg.testing import check_generative_policy
from modereg_integrations.diffusers import DiffusersPolicy

HORIZON, ACTION, OBSERVATION = 4, 2, 3


@pytest.fixture
def observations() -> TensorDict:
    return TensorDict({"observation": torch.randn(5, OBSERVATION)}, [5])


def untrained(**options: Any) -> DiffusersPolicy:
    shapes: dict[Any, tuple[int, ...]] = {"observation": (OBSERVATION,)}
    policy = DiffusersPolicy.untrained(
        observation_shapes=shapes, chunk_shape=(HORIZON, ACTION), hidden=(16, 16), **options
    )
    policy.fit_normalizer(torch.randn(50, HORIZON, ACTION), torch.randn(50, OBSERVATION))
    return policy


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"prediction_type": "sample"}, {"method": "flow"}, {"normalization": "meanstd"}],
)
def test_contract(options: dict[str, Any], dtype: torch.dtype, observations: TensorDict) -> None:
    policy = untrained(**options).to(dtype)
    check_generative_policy(policy, observations, dtype=dtype)
    check_generative_policy(policy.requires_grad_(False), observations, dtype=dtype)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDIMScheduler(prediction_type="sample", clip_sample_range=0.5),
        diffusers.DDIMScheduler(prediction_type="sample", thresholding=True),
        diffusers.FlowMatchHeunDiscreteScheduler(),
    ],
)
def test_contract_of_other_schedules(scheduler: Any, observations: TensorDict) -> None:
    made = untrained()
    policy = DiffusersPolicy(
        made.denoiser, scheduler, chunk_shape=made.chunk_shape, normalizer=made.normalizer
    )
    check_generative_policy(policy.requires_grad_(False), observations)


def test_copies_and_pickles_decode_alike() -> None:
    policy = untrained()
    noise, observation = torch.randn(3, HORIZON, ACTION), torch.randn(3, OBSERVATION)
    expected = policy.decode(noise, observation)
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert torch.equal(other.decode(noise, observation), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    policy = DiffusersPolicy.untrained(
        observation_shapes={"observation": (OBSERVATION,)}, chunk_shape=(HORIZON, ACTION)
    )
    noise, observation = torch.randn(6, HORIZON, ACTION), torch.randn(6, OBSERVATION)
    exact = policy.requires_grad_(False).double().decode(noise.double(), observation)
    chunk = policy.to(dtype).decode(noise.to(dtype), observation)
    assert chunk.dtype == dtype
    tolerance = {torch.bfloat16: 0.05, torch.float32: 1e-5, torch.float64: 1e-9}[dtype]
    torch.testing.assert_close(chunk.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", ["diffusion", "flow"])
def test_compiles(method: str) -> None:
    policy = DiffusersPolicy.untrained(
        observation_shapes={"observation": (OBSERVATION,)},
        chunk_shape=(HORIZON, ACTION),
        method=method,
        hidden=(16,),
        num_inference_steps=2,
    ).requires_grad_(False)
    noise, observation = torch.randn(2, HORIZON, ACTION), torch.randn(2, OBSERVATION)
    compiled = torch.compile(policy.decode, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(noise, observation), policy.decode(noise, observation))
