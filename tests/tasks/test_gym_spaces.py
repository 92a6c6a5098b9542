"""What Gymnasium environments of people return: bounds, types, shapes, successes and modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torchrl.data import Bounded
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import check_env_specs

from modereg.errors import ConfigurationError, ShapeError
from modereg.tasks import GymnasiumEnv
from modereg.transforms import ActionChunk

FREE = spaces.Box(-np.inf, np.inf, (1,), np.float32)
UNIT = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Odd(gymnasium.Env):
    """Ends after twelve steps; observation and info are functions of the step."""

    def __init__(
        self,
        observation: Callable[[int], Any] = lambda t: np.array([t], np.float32),
        info: Callable[[int], dict[str, Any]] = lambda t: {},
        observations: spaces.Space = FREE,
        actions: spaces.Box = UNIT,
    ) -> None:
        self.observation_space, self.action_space = observations, actions
        self._observation, self._info = observation, info

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.count = 0
        return self._observation(0), self._info(0)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), (action, action.dtype)
        self.count += 1
        return self._observation(self.count), 1.0, self.count == 12, False, self._info(self.count)


def made(**options: Any) -> Callable[[], Odd]:
    return lambda: Odd(**options)


BOXES = {
    "half": spaces.Box(
        np.array([-1, -np.inf, 2, -np.inf], np.float32),
        np.array([1, np.inf, np.inf, 0], np.float32),
    ),
    "double": spaces.Box(np.array([-0.1, 0.3]), np.array([0.7, 1e9]), dtype=np.float64),
    "half precision": spaces.Box(-1.0, 1.0, (2,), np.float16),
    "a point": spaces.Box(0.1, 0.1, (1,), np.float64),
    "open": spaces.Box(-np.inf, np.inf, (2,), np.float64),
}


@pytest.mark.parametrize("name", [name for name in BOXES if name != "a point"])
def test_random_and_clipped_actions_lie_in_the_box(name: str) -> None:
    make = made(actions=BOXES[name])
    check_env_specs(GymnasiumEnv(make, 3, seed=0))
    GymnasiumEnv(make, 3, seed=0).rollout(8)  # each step asserts it
    env = TransformedEnv(GymnasiumEnv(make, 3, seed=0), ActionChunk(2))
    root = env.reset()
    env.step(
        root.set("action", torch.full(env.action_spec.shape, 7.0, dtype=env.action_spec.dtype))
    )
    assert torch.isfinite(env.rollout(2)["next", "executed_chunk"]).all()


def test_a_half_bounded_box_is_clipped_where_it_is_bounded() -> None:
    env = TransformedEnv(GymnasiumEnv(made(actions=BOXES["half"])), ActionChunk(2))
    out = env.step(env.reset().set("action", torch.full((1, 2, 4), 5.0)))["next"]
    assert out["executed_chunk"].tolist() == [[[1, 5, 5, 0]] * 2]
    assert out["clipped_share"].item() == 0.5
    torch.manual_seed(0)
    spec = GymnasiumEnv(made(actions=BOXES["half"]), 2).action_spec
    for like in (spec, spec.clone(), spec.expand(3, 2, 4), spec[:1]):
        assert isinstance(like, Bounded)
        values = like.rand((5000,)).flatten(0, -2)
        assert like.is_in(like.rand())
        mean = torch.tensor([0.0, 0.0, 3.0, -1.0])
        torch.testing.assert_close(values.mean(0), mean, atol=0.08, rtol=0)


def test_a_box_of_one_point_that_the_type_cannot_hold_is_nearest() -> None:
    spec = GymnasiumEnv(made(actions=BOXES["a point"])).action_spec
    assert spec.low.item() == spec.high.item() == np.float32(0.1)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.int32, torch.int32),
        (np.uint8, torch.uint8),
        (np.uint16, torch.int32),
        (np.uint32, torch.int64),
        (np.bool_, torch.bool),
        (np.float64, torch.float32),
    ],
)
def test_observations_have_a_type_that_torch_works_with(dtype: Any, expected: torch.dtype) -> None:
    space = spaces.Box(0, 1 if dtype is np.bool_ else 200, (2,), dtype)
    make = made(observations=space, observation=lambda t: np.array([t, 1]).astype(dtype))
    check_env_specs(GymnasiumEnv(make, 2))
    found = GymnasiumEnv(make, 2).rollout(3)["next", "observation"]
    assert found.dtype == expected
    counts = [1, 1, 1] if dtype is np.bool_ else [1, 2, 3]
    assert found[0].tolist() == [[count, 1] for count in counts]


def test_the_default_type_does_not_reach_an_environment() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        step = GymnasiumEnv(made()).rollout(2)["next"]
    finally:
        torch.set_default_dtype(torch.float32)
    assert step["reward"].dtype == step["observation"].dtype == torch.float32


@pytest.mark.parametrize("shape", [(1,), (2, 1), ()])
def test_an_observation_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    box = spaces.Box(-9, 9, (2,), np.float32)
    env = GymnasiumEnv(made(observations=box, observation=lambda t: np.zeros(shape)))
    with pytest.raises(ShapeError, match=r"'observation' of shape \(2,\), as the space says"):
        env.reset()


@pytest.mark.parametrize("name", ["action", "reward", "done", "next", "success", "mode"])
def test_observations_do_not_take_the_names_of_other_entries(name: str) -> None:
    make = made(observations=spaces.Dict({name: FREE}))
    with pytest.raises(ConfigurationError, match=rf"names of their own, got \['{name}'\]"):
        GymnasiumEnv(make, success_key="success", mode_key="mode")


def labels(info: Callable[[int], dict], length: int = 3, **options: Any) -> dict[str, list]:
    env = GymnasiumEnv(made(info=info), 2, success_key="success", mode_key="mode", **options)
    found = env.rollout(length)["next"]
    return {key: found[key][0].flatten().tolist() for key in ("success", "mode")}


@pytest.mark.parametrize("value", [True, 1, 1.0, np.array([True]), np.bool_(True), np.float64(1)])
def test_successes_and_modes_are_read_from_flags_and_numbers(value: Any) -> None:
    found = labels(lambda t: {"success": value, "mode": value} if t == 2 else {})
    assert found == {"success": [False, True, True], "mode": [-1, 1, 1]}


def test_none_is_no_success_and_no_mode() -> None:
    found = labels(lambda t: {"success": None, "mode": None})
    assert found == {"success": [False] * 3, "mode": [-1] * 3}


@pytest.mark.parametrize("key", ["success", "mode"])
@pytest.mark.parametrize("value", ["False", "left", 2.7, float("nan"), [0, 1], -2, 4])
def test_labels_that_are_none_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"expected info\['{key}'\] to be one whole num"):
        labels(lambda t: {key: value} if t else {}, num_modes=4)


def test_a_success_that_does_not_last_counts_as_it_was_asked_for() -> None:
    def info(step: int) -> dict[str, Any]:
        return {"success": step in (5, 6), "mode": None if step < 3 else step % 2}

    assert labels(info, 8)["success"] == [False] * 4 + [True] * 4
    at_end = labels(info, 8, success="at_end")["success"]
    assert at_end == [False] * 4 + [True] * 2 + [False] * 2
    found = {}
    for success in ("once", "at_end"):
        env = GymnasiumEnv(made(info=info), 2, success_key="success", success=success)
        chunked = TransformedEnv(env, ActionChunk(4)).rollout(4, break_when_any_done=False)
        found[success] = chunked["next", "success"][0].flatten().tolist()
    assert found == {"once": [False, True, True, False], "at_end": [False] * 4}


@pytest.mark.parametrize("options", [{"num_envs": 0}, {"success": "twice"}])
def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="at least one environment and success of"):
        GymnasiumEnv(made(), **options)
