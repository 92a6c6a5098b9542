from __future__ import annotations

import gymnasium
import numpy as np
import torch
from torchrl.data import Bounded, Unbounded

from modereg_integrations.maniskill.spaces import flatten, observation_specs

BOX = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8)


def test_a_box_keeps_its_key() -> None:
    specs = observation_specs(BOX, "observation")
    assert list(specs) == ["observation"]
    assert isinstance(specs["observation"], Unbounded)
    assert specs["observation"].shape == (3,)


def test_nested_spaces_get_nested_keys() -> None:
    inner = gymnasium.spaces.Dict(rgb=IMAGE)
    space = gymnasium.spaces.Dict(agent=BOX, camera=gymnasium.spaces.Dict(base=inner))
    specs = observation_specs(space, ("a", "b"))
    assert set(specs) == {("a", "b", "agent"), ("a", "b", "camera", "base", "rgb")}
    image = specs["a", "b", "camera", "base", "rgb"]
    assert isinstance(image, Bounded)
    assert (image.dtype, image.shape) == (torch.uint8, (4, 4, 3))


def test_flatten_yields_the_leaves() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert dict(flatten({"x": one, "y": {"z": two}}, "o")) == {
        ("o", "x"): one,
        ("o", "y", "z"): two,
    }
    assert dict(flatten(one, "o")) == {"o": one}
