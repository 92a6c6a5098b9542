"""Each estimator that a configuration names has the widths and the noise that were asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn

from modereg.networks import MLP, InputNoise
from modereg.recipes.build import set_up
from modereg.recipes.variational import make_stage
from tests.recipes.conftest import TASK, discover_config

NOISE = 0.07


@pytest.mark.parametrize("estimator", ["categorical", "contrastive", "lsd", "metra"])
def test_widths_and_noise_are_those_of_the_configuration_and_the_task(
    base: str, estimator: Literal["categorical", "contrastive", "lsd", "metra"]
) -> None:
    config = discover_config(base, "unused", num_codes=3, hidden=(24, 16), estimator=estimator)
    setup = set_up(TASK, base)
    setup.task = replace(setup.task, feature_noise=NOISE)
    stage = make_stage(config, setup)
    network = stage.estimator.network.module
    assert isinstance(network, InputNoise)
    assert isinstance(network.network, MLP)
    linear = [layer for layer in network.network.layers if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear[:-1]] == [24, 16]
    assert network.std == pytest.approx(NOISE)
    assert float(network.network.features.scale[0]) != 1.0
    learns = estimator in ("categorical", "contrastive")
    assert linear[-1].bias.requires_grad == learns
    assert learns or torch.equal(linear[-1].bias, torch.zeros(3))
