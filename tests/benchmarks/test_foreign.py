"""The environments of the foreign folders name the route that was taken."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest

from modereg.plugins import resolve_task

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODULES = {"foreign_maze": ("maze", "SixRoutes-v0"), "foreign_rooms": ("rooms", "Rooms-v0")}


@pytest.fixture
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The ``train`` module of a folder; it and its environment are forgotten afterwards."""
    if request.param == "foreign_maze":
        pytest.importorskip("gymnasium_robotics")  # of the extra bench
    monkeypatch.syspath_prepend(BENCHMARKS / request.param)
    module, env_id = MODULES[request.param]
    yield importlib.import_module("train")
    del sys.modules["train"], sys.modules[module], gymnasium.registry[env_id]


def follow(env: gymnasium.Env, points: list[np.ndarray], command: Any) -> dict[str, Any]:
    """Go along way points; return the last info."""
    done, info = False, {}
    while not done:
        action, arrived = command(points[0])
        if arrived and len(points) > 1:
            points.pop(0)
            continue
        _, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    return info


@pytest.mark.parametrize("script", ["foreign_rooms"], indirect=True)
def test_rooms_name_the_route(script: ModuleType) -> None:
    env = gymnasium.make("Rooms-v0", wind=0.0, with_route=True)
    for number, route in enumerate(script.ROUTES):
        _, info = env.reset(seed=number)
        assert info == {"success": False, "route": -1}
        drone: Any = env.unwrapped

        def command(point: np.ndarray, drone: Any = drone) -> tuple[np.ndarray, bool]:
            way = point - drone.place
            return (way / np.linalg.norm(way) / 2).astype(np.float32), np.linalg.norm(way) < 0.4

        info = follow(env, script.way_points(route, drone.pad), command)
        assert info == {"success": True, "route": number}


@pytest.mark.parametrize("script", ["foreign_rooms"], indirect=True)
def test_walls_end_a_flight_and_doors_do_not(script: ModuleType) -> None:
    rooms = sys.modules["rooms"]
    assert rooms.touches_wall(4.0, 3.3)
    assert not rooms.touches_wall(4.0, 1.5)
    assert rooms.touches_wall(0.1, 2.0)
    env = gymnasium.make("Rooms-v0", wind=0.0)
    env.reset(seed=0)
    done, steps = False, 0
    while not done:
        _, reward, done, truncated, info = env.step(np.array([-1.0, 0.0], np.float32))
        steps += 1
        assert not truncated
    assert steps < 30
    assert (reward, info) == (0.0, {"success": False})


@pytest.mark.parametrize("script", ["foreign_maze"], indirect=True)
def test_the_maze_names_the_route(script: ModuleType) -> None:
    env = gymnasium.make("SixRoutes-v0", gusts=0.0, with_route=True)
    for route in range(6):
        observation, info = env.reset(seed=route)
        assert info["route"] == -1
        ball: Any = env.unwrapped

        def command(point: np.ndarray, ball: Any = ball) -> tuple[np.ndarray, bool]:
            place, velocity = ball.data.qpos, ball.data.qvel
            way = point - place
            wanted = 2.0 * way / np.linalg.norm(way)
            return (0.4 * (wanted - velocity)).astype(np.float32), np.linalg.norm(way) < 0.3

        points = script.way_points(observation["desired_goal"], *divmod(route, 2))
        info = follow(env, points, command)
        assert info["success"]
        assert info["route"] == route


def test_beds_name_tasks_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    beds = importlib.import_module("foreign_policies").FURTHER.values()
    for bed in (bed for bed in beds if bed.base is None):
        options = dict(zip(bed.options[::2], bed.options[1::2], strict=True))
        assert resolve_task(bed.task, **options).num_modes == bed.modes
