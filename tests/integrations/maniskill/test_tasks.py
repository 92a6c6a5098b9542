from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch

import modereg_integrations.maniskill as maniskill
from modereg.errors import ConfigurationError
from modereg_integrations.maniskill import make_task, wall_task
from modereg_integrations.maniskill.tasks import plot_wall


def test_public_names() -> None:
    for name in maniskill.__all__:
        assert getattr(maniskill, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = maniskill.nothing


def test_the_wall_task() -> None:
    task = make_task("ModeregWall-v1", num_envs=4)
    assert task.name == "maniskill:ModeregWall-v1"
    assert (task.num_modes, task.mode_names) == (3, ("left", "right", "over"))
    assert (task.max_steps, task.horizon, task.execute, task.num_envs) == (60, 8, 4, 4)
    env = task.make_env(2, device="cpu", seed=0)
    td = env.reset()
    for key in (*task.observation_keys, *task.feature_keys, "mode", "success"):
        assert key in td
    env.close()
    assert task.demonstrate is not None
    assert task.demonstrate(1, 0).actions.shape == (1, 60, 4)
    assert wall_task().make_env.func is task.make_env.func


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, {"observation"}),
        ({"obs_mode": "state_dict"}, {("observation", "agent", "qpos")}),
    ],
)
def test_any_task(options: dict[str, str], keys: set) -> None:
    task = make_task("PushCube-v1", control_mode="pd_ee_delta_pos", **options)
    assert task.name == "maniskill:PushCube-v1"
    assert task.max_steps == 50
    assert task.num_modes is None
    assert keys <= set(task.observation_keys)
    env = task.make_env(1, device="cpu")
    assert env.max_steps == 50
    assert env.action_spec.shape == (1, 4)
    assert set(task.observation_keys) <= set(env.observation_spec.keys(True, True))
    env.close()


def test_a_task_without_a_limit_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from mani_skill.utils.registration import REGISTERED_ENVS

    monkeypatch.setattr(REGISTERED_ENVS["PushCube-v1"], "max_episode_steps", None)
    with pytest.raises(ConfigurationError, match="give max_steps"):
        make_task("PushCube-v1")
    assert make_task("PushCube-v1", max_steps=7).max_steps == 7


def test_the_picture() -> None:
    fig, ax = plt.subplots()
    plot_wall(ax, torch.randn(5, 7, 3), torch.tensor([0, 1, 2, -1, 0]))
    assert len(ax.collections[0].get_segments()) == 5
    plt.close(fig)
