"""A policy whose noise does not decide its chunk is refused, with the way out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lerobot.policies import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

from modereg.errors import ConfigurationError, StochasticSamplerError
from modereg_integrations.lerobot import LeRobotPolicy

Make = Callable[..., Any]


def test_lerobots_default_scheduler_is_stochastic_and_refused(make: Make) -> None:
    (policy, *processors), data = make("diffusion", noise_scheduler_type="DDPM")
    batch = {name: data[tuple(name.split("."))] for name in policy.config.input_features}
    noise = torch.randn(3, 8, 3)
    assert not torch.equal(*(policy.predict_action_chunk(batch, noise=noise) for _ in range(2)))
    with pytest.raises(StochasticSamplerError, match='"noise_scheduler_type": "DDIM"'):
        LeRobotPolicy(policy, *processors)


def test_the_way_out_keeps_the_weights(make: Make) -> None:
    (policy, *processors), data = make("diffusion", noise_scheduler_type="DDPM")
    config = dataclasses.replace(policy.config, noise_scheduler_type="DDIM", num_inference_steps=10)
    other = DiffusionPolicy(config)
    other.load_state_dict(policy.state_dict())
    sampler = LeRobotPolicy(other, *processors)
    assert sampler.decode_from(data, sampler.draw_noise([3])).shape == (3, 4, 3)


def test_policies_without_noise_are_refused(make: Make) -> None:
    (policy, *processors), _ = make("diffusion")
    features = {
        name: getattr(policy.config, name) for name in ("input_features", "output_features")
    }
    small = {"dim_model": 8, "n_heads": 2, "dim_feedforward": 8, "n_encoder_layers": 1}
    act = ACTPolicy(ACTConfig(**features, **small, chunk_size=4, n_action_steps=4, device="cpu"))
    with pytest.raises(ConfigurationError, match=r"diffusion, pi0, smolvla, got 'act' \(ACTPolicy"):
        LeRobotPolicy(act, *processors)
    with pytest.raises(ConfigurationError, match=r"got None \(Linear\)"):
        LeRobotPolicy(torch.nn.Linear(1, 1), *processors)
