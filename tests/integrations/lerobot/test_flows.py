"""Flow-matching policies integrate as LeRobot does, from noise and observation alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg_integrations.flows import integrate
from modereg_integrations.lerobot import LeRobotPolicy

Make = Callable[..., Any]


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_euler_steps_are_those_of_lerobot(steps: int) -> None:
    def velocity(x: Tensor, time: Tensor) -> Tensor:
        return torch.sin(3 * x) + time[:, None, None] * x.cumsum(1)

    noise = torch.randn(4, 6, 5)
    assert torch.equal(integrate(velocity, noise, steps), euler_integrate(velocity, noise, steps))


@pytest.mark.parametrize("kind", ["smolvla", "pi0"])
def test_real_time_chunking_is_refused(make: Make, kind: str) -> None:
    made, _ = make(kind, rtc_config=RTCConfig(enabled=True))
    with pytest.raises(ConfigurationError, match="set rtc_config to None"):
        LeRobotPolicy(*made)
    off, _ = make(kind, rtc_config=RTCConfig(enabled=False))
    assert LeRobotPolicy(*off).noise_shape == (6, 5)


def test_conversions_of_aloha_are_refused(make: Make) -> None:
    made, _ = make("smolvla", adapt_to_pi_aloha=True)
    with pytest.raises(ConfigurationError, match="adapt_to_pi_aloha=False"):
        LeRobotPolicy(*made)
