from __future__ import annotations

import pytest
import torch
from torchrl.envs import EnvBase, GymEnv, PendulumEnv
from torchrl.envs.utils import check_env_specs

from modereg.errors import ConfigurationError
from modereg.tasks import Avoid, environment_task


def test_a_single_environment_is_multiplied_and_limited() -> None:
    task = environment_task("pendulum", lambda: GymEnv("Pendulum-v1"), 5, horizon=4, execute=2)
    assert task.observation_keys == ("observation",)
    layout = task.layout
    assert (layout.max_steps, layout.horizon, layout.execute) == (5, 4, 2)
    assert (layout.max_decisions, layout.time_limit) == (3, "truncates")
    single, several = task.make_env(1), task.make_env(3, device="cpu")
    assert (single.batch_size, several.batch_size) == ((), (3,))
    check_env_specs(several)
    last = several.rollout(10)[:, -1]["next"]
    assert last["truncated"].all()
    assert last["step_count"].flatten().tolist() == [5, 5, 5]
    several.close()


def test_a_factory_that_takes_num_envs_is_called_with_it() -> None:
    def make(num_envs: int) -> EnvBase:
        return Avoid(num_envs, max_steps=7)

    task = environment_task("mine", make)
    assert (task.layout.max_steps, task.layout.time_limit) == (7, "terminates")
    assert set(task.observation_keys) == {"observation", "elapsed"}
    assert task.make_env(4).batch_size == (4,)


def test_device_and_options_reach_the_factory() -> None:
    env = environment_task("mine", Avoid).make_env(2, device="cpu", seed=3)
    assert torch.equal(env.reset()["observation"], Avoid(2, seed=3).reset()["observation"])


def test_a_fixed_batch_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"batch size \(4,\)"):
        environment_task("mine", lambda: Avoid(4))


def test_no_time_limit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="pass max_steps"):
        environment_task("endless", PendulumEnv)
