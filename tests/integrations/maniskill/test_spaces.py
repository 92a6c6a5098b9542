from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from torchrl.data import Bounded, Unbounded

from modereg.errors import ConfigurationError
from modereg_integrations.maniskill.spaces import (
    action_boxes,
    choose,
    draw_seeds,
    flatten,
    info_specs,
    join,
    observation_specs,
    read,
)

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


def test_actions_are_boxes_one_a_robot() -> None:
    assert action_boxes(BOX, "Any-v1") == {"": BOX}
    assert action_boxes(gymnasium.spaces.Dict(left=BOX), "Any-v1") == {"left": BOX}
    for space in (gymnasium.spaces.Discrete(3), gymnasium.spaces.Dict(left=IMAGE)):
        with pytest.raises(ConfigurationError, match=r"'Any-v1'; choose another control_mode"):
            action_boxes(space, "Any-v1")


def test_entries_of_the_info() -> None:
    info = {
        "success": torch.zeros(2, dtype=torch.bool),
        "mode": torch.zeros(2, dtype=torch.int64),
        "cube_position": torch.zeros(2, 3),
    }
    assert info_specs({}, (), "Any-v1") == {}
    specs = info_specs(info, ("cube_position",), "Any-v1")
    assert {key: tuple(spec.shape) for key, spec in specs.items()} == {
        "cube_position": (3,),
        "success": (1,),
        "mode": (1,),
    }
    with pytest.raises(ConfigurationError, match=r"no \['cube_pos'\].*'cube_position'\?"):
        info_specs(info, ("cube_pos",), "Any-v1")


def test_what_the_observation_lacks_is_looked_up_in_the_info() -> None:
    obs = {"agent": {"qpos": torch.ones(2, 3, dtype=torch.float64)}}
    info = {"success": torch.tensor([True, False]), "mode": torch.tensor([1, -1]), "x": 0}
    dtypes = {
        ("observation", "agent", "qpos"): torch.float32,
        "success": torch.bool,
        "mode": torch.int64,
    }
    leaves = read(obs, info, dtypes, "cpu")
    assert leaves.keys() == dtypes.keys()
    assert leaves["observation", "agent", "qpos"].dtype == torch.float32
    assert leaves["success"].tolist() == [[True], [False]]
    assert leaves["mode"].tolist() == [[1], [-1]]


def test_joined_rows_are_copies() -> None:
    for parts in ([{"a": torch.zeros(1, 2)}], [{"a": torch.zeros(1, 2)}, {"a": torch.ones(2, 2)}]):
        joined = join(parts)["a"]
        assert joined.shape == (sum(len(part["a"]) for part in parts), 2)
        parts[0]["a"].fill_(5)
        assert joined[0].tolist() == [0, 0]


def test_rows_are_chosen_whatever_their_shape() -> None:
    first = {"a": torch.ones(3, 1), "b": torch.ones(3, 2, 2, dtype=torch.uint8)}
    second = {"a": torch.zeros(3, 1), "b": torch.zeros(3, 2, 2, dtype=torch.uint8), "c": None}
    chosen = choose(torch.tensor([[True], [False], [True]]), first, second)
    assert chosen["a"].view(-1).tolist() == [1, 0, 1]
    assert chosen["b"].sum((1, 2)).tolist() == [4, 0, 4]
    assert chosen["b"].dtype == torch.uint8
    assert "c" not in chosen


def test_seeds_come_from_the_generator_alone() -> None:
    drawn = []
    for _ in range(2):
        torch.rand(1)
        drawn.append(draw_seeds(torch.Generator().manual_seed(3), 4))
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 4
