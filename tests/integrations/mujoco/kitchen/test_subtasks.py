from __future__ import annotations

import numpy as np
import pytest

from modereg_integrations.mujoco.kitchen.simulation import START
from modereg_integrations.mujoco.kitchen.subtasks import (
    GOALS,
    NEAR,
    complete,
    mark_order,
    modes_of_orders,
    order_names,
    orders,
)


def test_orders_and_names() -> None:
    assert [len(orders(count)) for count in (2, 3, 4)] == [2, 6, 24]
    assert order_names(3) == ("K-L-S", "K-S-L", "L-K-S", "L-S-K", "S-K-L", "S-L-K")
    assert len(set(order_names(4))) == 24


def test_goals_are_those_of_gymnasium_robotics() -> None:
    theirs = pytest.importorskip("gymnasium_robotics.envs.franka_kitchen.kitchen_env")
    assert theirs.BONUS_THRESH == NEAR
    for name, (index, goal) in GOALS.items():
        assert tuple(theirs.OBS_ELEMENT_INDICES[name]) == index
        assert tuple(theirs.OBS_ELEMENT_GOALS[name]) == goal


def test_a_subtask_is_complete_near_its_goal() -> None:
    qpos = np.array(START)
    assert not complete(qpos, 4).any()
    for number, (index, goal) in enumerate(GOALS.values()):
        there = qpos.copy()
        there[list(index)] = goal
        there[index[0]] += 0.99 * NEAR
        assert complete(there, 4).tolist() == [each == number for each in range(4)]
        there[index[0]] += 0.02 * NEAR
        assert not complete(there, 4).any()


def test_an_order_is_marked_once_and_decided_by_all_but_one() -> None:
    order = np.full(3, -1)
    assert modes_of_orders(order[None]).tolist() == [-1]
    order = mark_order(order, np.array([False, True, False]))
    assert order.tolist() == [1, -1, -1]
    assert modes_of_orders(order[None]).tolist() == [-1]
    same = mark_order(order, np.array([False, True, False]))
    assert same.tolist() == order.tolist()
    order = mark_order(order, np.array([True, False, False]))
    assert order.tolist() == [1, 0, -1]
    assert modes_of_orders(order[None]).tolist() == [2]
    order = mark_order(order, np.array([False, False, True]))
    assert modes_of_orders(order[None]).tolist() == [2]


def test_of_several_at_once_the_first_counts_as_earlier() -> None:
    order = mark_order(np.array([1, -1, -1]), np.ones(3, dtype=bool))
    assert order.tolist() == [1, 0, 2]


def test_every_order_is_its_mode() -> None:
    assert modes_of_orders(orders(4)).tolist() == list(range(24))
