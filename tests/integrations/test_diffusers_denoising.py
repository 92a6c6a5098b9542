"""The steps of diffusers' samplers with noise in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from tensordict import TensorDict

from modereg.errors import ConfigurationError
from modereg.policies import DenoisingChain, embed_codes, freeze
from modereg_integrations.diffusers import DiffusersPolicy
from modereg_integrations.diffusers.denoiser import MLPDenoiser
from modereg_integrations.diffusers.normalizer import Normalizer
from tests.integrations.unets import unet

SHAPE, OBS = (4, 2), 3
SCHEDULERS = {
    f"{kind}, clips {clips}": DDIMScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=kind,
        clip_sample=clips,
        timestep_spacing="trailing" if kind == "v_prediction" else "leading",
    )
    for kind in ("epsilon", "sample", "v_prediction")
    for clips in (True, False)
} | {
    "flow": FlowMatchEulerDiscreteScheduler(num_train_timesteps=6),
    "shifted flow": FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0),
}


def policy(scheduler: Any, **options: Any) -> DiffusersPolicy:
    torch.manual_seed(0)
    normalizer = Normalizer([(OBS,)], 2)
    normalizer.fit([torch.randn(50, OBS)], 3.0 * torch.randn(50, *SHAPE), None)
    denoiser = MLPDenoiser(2, SHAPE[0], [OBS], [32])
    given = {"num_inference_steps": 6, "normalizer": normalizer} | options
    return freeze(DiffusersPolicy(denoiser, scheduler, chunk_shape=SHAPE, **given))


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [None, 2])
def test_without_noise_the_chain_is_the_decode(name: str, steps: int | None) -> None:
    base = policy(SCHEDULERS[name])
    chain = DenoisingChain(base, steps, noise=0.0)
    noise, observed = torch.randn(5, *SHAPE), torch.randn(5, OBS)
    expected = base.decode(noise, observed)
    for found in (chain.decode(noise, observed), chain.sample(noise, observed).chunk):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    if steps is None:
        assert torch.equal(chain.decode(noise, observed), expected)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if "flow" not in name])
def test_the_steps_are_diffusers_own_with_its_eta(name: str) -> None:
    """Given the same draws, step by step, down to the last one, which has the floor."""
    base, eta = policy(SCHEDULERS[name], normalizer=None), 0.7
    chain = DenoisingChain(base, noise=eta, floor=0.0)
    noise, observed = torch.randn(5, *SHAPE), torch.randn(5, OBS)
    own = DDIMScheduler.from_config(SCHEDULERS[name].config)
    own.set_timesteps(6)
    torch.manual_seed(1)
    drawn = chain.sample(noise, observed)
    torch.manual_seed(1)
    x = noise
    for time in own.timesteps:
        output = base.denoiser(x, time, observed)
        x = own.step(output, time, x, eta=eta, variance_noise=torch.randn_like(x)).prev_sample
    torch.testing.assert_close(drawn.chunk, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_ratio_is_one_in_one_pass(name: str) -> None:
    base = policy(SCHEDULERS[name]).double()
    chain = DenoisingChain(base, 4, noise=0.3)
    noise, observed = torch.randn(5, *SHAPE).double(), torch.randn(5, OBS).double()
    drawn = chain.sample(noise, observed)
    assert torch.isfinite(drawn.log_prob).all()
    again = chain.log_prob(drawn.chain, chain.means(drawn.chain, observed))
    torch.testing.assert_close(again, drawn.log_prob, rtol=0.0, atol=1e-6)
    physical = base.normalizer.denormalize_action(drawn.chain[:, -1])
    torch.testing.assert_close(drawn.chunk, physical)


def test_a_unet_and_a_history_of_observations() -> None:
    options = {"chunk_shape": (8, 2), "observation_steps": 2, "num_inference_steps": 3}
    scheduler = SCHEDULERS["sample, clips False"]
    base = freeze(DiffusersPolicy(unet(2 + 2 * OBS, 2), scheduler, **options))
    chain = DenoisingChain(base, noise=0.3)
    noise, observed = torch.randn(4, 8, 2), torch.randn(4, 2, OBS)
    drawn = chain.sample(noise, observed)
    again = chain.log_prob(drawn.chain, chain.means(drawn.chain, observed))
    torch.testing.assert_close(again, drawn.log_prob, rtol=0.0, atol=1e-3)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_samplers_without_such_steps_are_refused() -> None:
    sentence = "expected DDIMScheduler without thresholding, .* got EulerDiscreteScheduler"
    with pytest.raises(ConfigurationError, match=sentence):
        DenoisingChain(policy(EulerDiscreteScheduler()))
    with pytest.raises(ConfigurationError, match="without thresholding"):
        DenoisingChain(policy(DDIMScheduler(thresholding=True)))
    with pytest.raises(ConfigurationError, match=r"Scheduler whose sigmas fall, .* got FlowMatch"):
        DenoisingChain(policy(FlowMatchEulerDiscreteScheduler(invert_sigmas=True)))
    with pytest.raises(ConfigurationError, match=r"expected a noise in \[0, 1\] for DDIMScheduler"):
        DenoisingChain(policy(SCHEDULERS["epsilon, clips False"]), noise=3.0)


def test_what_was_trained_whole_is_a_policy_of_its_own_library(tmp_path: Path) -> None:
    base = policy(SCHEDULERS["v_prediction, clips False"])
    chain = DenoisingChain(base)
    with torch.no_grad():
        for value in chain.tuned.parameters():
            value.add_(0.1 * torch.randn_like(value))
    assert chain.save_whole(tmp_path / "policy")
    loaded = DiffusersPolicy.from_pretrained(tmp_path / "policy")
    noise, observed = torch.randn(5, *SHAPE), torch.randn(5, OBS)
    assert torch.equal(loaded.decode(noise, observed), chain.decode(noise, observed))
    assert loaded.fingerprint() != base.fingerprint()
    assert not DenoisingChain(base, 3).save_whole(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("rank", [None, 2])
def test_one_code_is_a_policy_of_its_own_library(rank: int | None, tmp_path: Path) -> None:
    base = policy(SCHEDULERS["v_prediction, clips False"])
    noise, observed = torch.randn(5, *SHAPE), torch.randn(5, OBS)
    example = TensorDict({base.observation_keys[0]: observed}, [5])
    chain = embed_codes(base, 3, example, rank=rank)
    with torch.no_grad():
        for value in chain.tuned.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn_like(value))
    assert not chain.save_whole(tmp_path / "all")
    for code in range(3):
        assert chain.fixed(code).save_whole(tmp_path / str(code))
        loaded = DiffusersPolicy.from_pretrained(tmp_path / str(code))
        played = chain.decode(noise, observed, torch.eye(3)[code].expand(5, -1))
        torch.testing.assert_close(loaded.decode(noise, observed), played, rtol=1e-5, atol=1e-5)
        other = chain.decode(noise, observed, torch.eye(3)[code - 1].expand(5, -1))
        assert not torch.allclose(loaded.decode(noise, observed), other, atol=0.01)
