"""ManiSkill's one warning, and simulations that tests hand on to each other."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from modereg_integrations.maniskill import env, simulation

WARNINGS = (
    # ManiSkill 3.0 under numpy 2.4, once a step
    "ignore:Conversion of an array with ndim > 0 to a scalar is deprecated:DeprecationWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "integrations/maniskill" in item.path.as_posix():
            for warning in WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session")
def closed_simulations() -> dict[str, list[Any]]:
    """Simulations that wait for their next use, by what they were made with."""
    return defaultdict(list)


@pytest.fixture
def shared_simulations(
    closed_simulations: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open an environment costs more than to play an episode: what was closed is used again."""

    def open_one(env_id: str, width: int, options: dict[str, Any]) -> Any:
        waiting = closed_simulations[f"{env_id} {width} {sorted(options.items())}"]
        if waiting:
            return waiting.pop()
        sim = simulation.make_simulation(env_id, width, options)
        sim.reset(seed=[0] * width)
        sim.step(sim.action_space.sample() * 0)  # a first episode is off by its last bits
        sim.close = lambda: waiting.append(sim)
        return sim

    monkeypatch.setattr(env, "make_simulation", open_one)
