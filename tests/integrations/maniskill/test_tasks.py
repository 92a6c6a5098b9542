from __future__ import annotations

import pytest

import modereg_integrations.maniskill as maniskill
from modereg.errors import ConfigurationError
from modereg_integrations.maniskill import make_task

pytestmark = pytest.mark.usefixtures("shared_simulations")


def test_public_names() -> None:
    for name in maniskill.__all__:
        assert getattr(maniskill, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = maniskill.nothing


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
    assert task.layout.max_steps == 50
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
    assert make_task("PushCube-v1", max_steps=7).layout.max_steps == 7
