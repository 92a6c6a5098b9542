"""Every task on the table keeps the contract of every task."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch
from tensordict import TensorDict

from modereg.errors import ConfigurationError
from modereg.testing import check_task
from modereg_integrations.maniskill import make_task
from modereg_integrations.maniskill.tabletop import TASKS

EACH = pytest.mark.parametrize("env_id", TASKS)
SHOWN = {  # modes, steps, what is shown
    "ModeregDiscs-v1": (4, 60, "cube_position"),
    "ModeregLiftPeg-v1": (2, 80, "peg_tip"),
    "ModeregPosts6-v1": (6, 50, "tip_position"),
    "ModeregPosts24-v1": (24, 60, "tip_position"),
    "ModeregReach-v1": (2, 40, "tip_position"),
    "ModeregWall-v1": (3, 60, "cube_position"),
}


@pytest.mark.parametrize("env_id", [name for name in TASKS if name != "ModeregPosts6-v1"])
def test_the_battery_for_tasks(env_id: str) -> None:
    check_task(make_task(env_id), num_envs=2, expert_episodes=TASKS[env_id].num_modes)


@EACH
def test_what_the_task_says(env_id: str) -> None:
    task = make_task(env_id, num_envs=4)
    num_modes, max_steps, shown = SHOWN[env_id]
    assert task.name == f"maniskill:{env_id}"
    assert (task.num_modes, task.layout.max_steps) == (num_modes, max_steps)
    assert len(set(task.mode_names or ())) == num_modes
    assert (task.layout.horizon, task.layout.execute, task.num_envs) == (8, 4, 4)
    assert (task.layout.feature_keys, task.feature_names) == ((shown,), ("x", "y", "z"))
    assert (task.layout.steering_keys, task.layout.time_limit) == (
        ("observation", "elapsed"),
        "terminates",
    )
    assert task.renders
    assert make_task(env_id, max_steps=30).layout.max_steps == 30


@EACH
def test_the_picture(env_id: str) -> None:
    task = TASKS[env_id]
    fig, ax = plt.subplots()
    paths = torch.randn(5, 7, 3)
    task.picture(ax, paths, torch.tensor([0, 1, 1, -1, 0]))
    segments = ax.collections[0].get_segments()
    assert len(segments) == 5
    seen = paths[0][:, list(task.picture.dims)]
    torch.testing.assert_close(torch.tensor(segments[0]).float(), seen)
    assert ax.get_xlim()[0] > ax.get_xlim()[1]  # the robot's left is on the left
    plt.close(fig)


@EACH
def test_another_mode_is_refused(env_id: str) -> None:
    task = TASKS[env_id]
    with pytest.raises(ConfigurationError, match=f"0 to {task.num_modes - 1}, got"):
        task.expert(task.num_modes, TensorDict())


@EACH
def test_modes_pay_from_one_plus_the_spread_to_one_minus_it(env_id: str) -> None:
    pay = TASKS[env_id].pay(0.3)
    assert pay.shape == (TASKS[env_id].num_modes,)
    torch.testing.assert_close(torch.stack(pay.aminmax()), torch.tensor([0.7, 1.3]))
    assert TASKS[env_id].pay(0).eq(1).all()


@EACH
def test_what_a_step_decides_is_where_it_was_watched(env_id: str) -> None:
    width = 6 if env_id == "ModeregLiftPeg-v1" else 3
    watched = torch.zeros(2, width, device="meta")  # where a tensor of the CPU's is refused
    assert TASKS[env_id].find(watched, watched).device.type == "meta"
