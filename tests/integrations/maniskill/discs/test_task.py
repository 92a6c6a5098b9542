"""The task of four discs keeps the contract of every task."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch
from tensordict import TensorDict

from modereg.errors import ConfigurationError
from modereg.testing import check_task
from modereg_integrations.maniskill import make_task
from modereg_integrations.maniskill.discs.expert import DiscsExpert, make_discs_env
from modereg_integrations.maniskill.discs.geometry import DISCS
from modereg_integrations.maniskill.discs.task import plot_discs

ENV_ID = "ModeregDiscs-v1"


def test_the_discs_pass_the_battery_for_tasks() -> None:
    check_task(make_task(ENV_ID), num_envs=2, expert_episodes=4)


def test_what_the_task_says() -> None:
    task = make_task(ENV_ID, num_envs=3, execute=8)
    assert task.name == "maniskill:ModeregDiscs-v1"
    assert (task.num_modes, task.max_steps, task.execute, task.num_envs) == (4, 60, 8, 3)
    assert task.mode_names == ("near left", "near right", "far left", "far right")
    assert task.feature_keys == ("cube_position",)
    assert task.renders


@pytest.mark.parametrize(("mode", "pay"), [(0, 1.3), (3, 0.7)])
def test_the_expert_places_the_cube_and_is_paid_for_its_disc(mode: int, pay: float) -> None:
    env = make_discs_env(1, seed=mode, pay_spread=0.3, fast=True)
    td = env.reset()
    expert, total = DiscsExpert(mode, td), 0.0
    assert td["observation"].shape == (1, 10)
    while not td["done"].any():
        td = env.step(td.copy().set("action", expert(td)[None]))["next"]
        total += float(td["reward"])
        torch.testing.assert_close(
            td["observation"][:, 7:], td["cube_position"] - td["observation"][:, 1:4]
        )
    assert (int(td["mode"]), round(total, 4)) == (mode, pay)
    assert (td["cube_position"][0, :2] - torch.tensor(DISCS[mode])).norm() < 0.03
    assert float(td["cube_position"][0, 2]) < 0.025
    env.close()


def test_another_mode_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="0 to 3, got 4"):
        DiscsExpert(4, TensorDict(cube_position=torch.zeros(1, 3), batch_size=1))


def test_the_picture() -> None:
    fig, ax = plt.subplots()
    paths = torch.randn(5, 7, 3)
    plot_discs(ax, paths, torch.tensor([0, 1, 2, -1, 3]))
    segments = ax.collections[0].get_segments()
    torch.testing.assert_close(torch.tensor(segments[0]).float(), paths[0, :, [1, 0]])
    assert (len(segments), len(ax.patches)) == (5, 4)
    plt.close(fig)
