from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torchrl.envs.utils import check_env_specs

from modereg.errors import ConfigurationError
from modereg.tasks.base import Demonstrations
from modereg_integrations.maniskill.tabletop import TASKS
from modereg_integrations.maniskill.tabletop.wall import (
    GOAL,
    GOAL_RADIUS,
    WALL_HALF_SIZE,
    WALL_X,
)

WALL = TASKS["ModeregWall-v1"]
coordinates = st.integers(-3001, 3001).map(lambda number: number / 10_000)


@pytest.fixture(scope="module")
def demonstrations() -> Demonstrations:
    return WALL.demonstrate(9, seed=0)


@given(before=st.tuples(coordinates, coordinates), after=st.tuples(coordinates, coordinates))
def test_the_label_is_where_the_path_meets_the_plane(
    before: tuple[float, float], after: tuple[float, float]
) -> None:
    (x0, y0), (x1, y1) = before, after
    assume(WALL_X not in (x0, x1))
    expected = -1
    if x0 < WALL_X <= x1:
        y = y0 + (y1 - y0) * (WALL_X - x0) / (x1 - x0)
        assume(abs(abs(y) - WALL_HALF_SIZE[1]) > 1e-6)
        expected = 2 if abs(y) < WALL_HALF_SIZE[1] else int(y < 0)
    ends = torch.tensor([[x0, y0, 0.0], [x1, y1, 0.0]])
    assert int(WALL.find(*ends)) == expected


def test_the_expert_reaches_every_mode(demonstrations: Demonstrations) -> None:
    assert demonstrations.success.all()
    assert demonstrations.mode_counts(3).tolist() == [3, 3, 3]
    assert demonstrations.lengths.max() < WALL.max_steps


def test_the_label_agrees_with_the_path(demonstrations: Demonstrations) -> None:
    paths = demonstrations.observations["cube_position"]
    for path, mode, length in zip(paths, demonstrations.modes, demonstrations.lengths):
        _, y, z = path[int((path[:, 0] >= WALL_X).nonzero()[0])]
        reached = {0: y > WALL_HALF_SIZE[1], 1: y < -WALL_HALF_SIZE[1]}
        assert reached.get(int(mode), z > 2 * WALL_HALF_SIZE[2])
        assert (path[int(length), :2] - torch.tensor(GOAL)).norm() < GOAL_RADIUS


def test_one_start_state_leads_to_every_mode(demonstrations: Demonstrations) -> None:
    starts = demonstrations.observations["observation"][:, 0]
    assert starts.std(0).max() < 0.02
    assert (starts[0] != starts[1]).any()


def test_padding(demonstrations: Demonstrations) -> None:
    length = int(demonstrations.lengths[0])
    assert demonstrations.observations["observation"].shape == (9, WALL.max_steps + 1, 13)
    assert demonstrations.actions.shape == (9, WALL.max_steps, 4)
    assert not demonstrations.actions[0, length:].any()
    assert demonstrations.actions[0, :length].abs().sum(-1).min() > 0
    tail = demonstrations.observations["cube_position"][0, length:]
    assert torch.equal(tail, tail[:1].expand_as(tail))


def test_the_same_seed_gives_the_same_episodes(demonstrations: Demonstrations) -> None:
    again = WALL.demonstrate(3, seed=0)
    repeated = WALL.demonstrate(3, seed=0)
    assert torch.equal(again.actions, repeated.actions)
    for key, value in again.observations.items():
        assert torch.equal(value, repeated.observations[key])
    assert not torch.equal(again.actions, WALL.demonstrate(3, seed=1).actions)
    assert len(demonstrations) == 9


def test_shares() -> None:
    shown = WALL.demonstrate(4, seed=2, shares=(1, 0, 3))
    assert shown.mode_counts(3).tolist() == [1, 0, 3]
    for shares in ((1, 2), (-1, 1, 1), (0, 0, 0)):
        with pytest.raises(ConfigurationError, match="shares of the 3 modes"):
            WALL.demonstrate(1, seed=0, shares=shares)


def test_the_environment() -> None:
    env = WALL.env(2, seed=0)
    check_env_specs(env)
    td = env.reset()
    assert td["mode"].view(-1).tolist() == [-1, -1]
    assert td["observation"].shape == (2, 13)
    assert torch.equal(td["observation"][:, 4:7], td["cube_position"])
    assert env.max_steps is None
    torch.testing.assert_close(
        td["observation"][:, 7:10], td["cube_position"] - td["observation"][:, 1:4]
    )
    env.close()


def test_the_label_stays_and_is_forgotten_at_reset() -> None:
    env = WALL.env(1, seed=0)
    td = env.reset()
    expert = WALL.expert(0, td)
    modes = []
    while not td["done"].any():
        td = env.step(td.copy().set("action", expert(td)[None]))["next"]
        modes.append(int(td["mode"]))
    first = modes.index(0)
    assert modes == [-1] * first + [0] * (len(modes) - first)
    assert td["success"].all()
    assert float(td["reward"]) == 1.0
    assert int(env.reset()["mode"]) == -1
    env.close()


@pytest.mark.parametrize(("mode", "pay"), [(0, 1.5), (1, 1.0), (2, 0.5)])
def test_modes_may_pay_unequally(mode: int, pay: float) -> None:
    env = WALL.env(1, seed=0, pay_spread=0.5)
    td = env.reset()
    expert = WALL.expert(mode, td)
    total = 0.0
    while not td["done"].any():
        td = env.step(td.copy().set("action", expert(td)[None]))["next"]
        total += float(td["reward"])
    assert (int(td["mode"]), total) == (mode, pay)
    env.close()
