from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchrl.envs.utils import check_env_specs

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.estimators import CategoricalMI
from modereg.networks import MLP
from modereg.recipes.build import Setup, set_up
from modereg.recipes.config import TaskConfig
from modereg.tasks import Task
from modereg.testing import CountingEnv, TinyPolicy
from tests.recipes.conftest import TASK

PENDULUM = TaskConfig("gymnasium:Pendulum-v1", {"max_steps": 16}, 2)


def _counting(time_limit: str) -> Setup:
    task = Task(
        name="counting",
        make_env=lambda num_envs: CountingEnv([3, 9][:num_envs]),
        max_steps=8,
        horizon=4,
        execute=2,
        time_limit=time_limit,
    )
    return Setup(task, task.make_env(2), TinyPolicy(3), "tiny", "")


def test_a_task_and_a_frozen_base(base: str) -> None:
    setup = set_up(TASK, base)
    assert (setup.task.name, setup.num_envs, setup.reference) == ("gaussian_mixture", 64, base)
    assert not any(parameter.requires_grad for parameter in setup.base.parameters())
    assert not setup.base.training
    assert setup.fingerprint == set_up(TASK, base).base.fingerprint()
    assert set_up(replace(TASK, num_envs=None), base).num_envs == 256


def test_the_steered_environment_keeps_its_promises(base: str) -> None:
    env = set_up(replace(TASK, num_envs=3), base).steered(5, 0.999)
    check_env_specs(env)
    rollout = env.rollout(6)
    assert rollout.get(keys.LATENT_FEATURES).shape == (3, rollout.shape[1], 5)
    assert rollout.get(keys.HISTORY).shape[-1] == 7 * 2


def test_where_time_runs_out_it_can_be_read() -> None:
    ends, goes_on = _counting("terminates"), _counting("truncates")
    assert ends.needs_clock
    assert ends.steering_keys == [keys.OBSERVATION, keys.ELAPSED]
    assert not goes_on.needs_clock
    assert goes_on.steering_keys == [keys.OBSERVATION]
    rollout = ends.steered(2, 1.0).rollout(6, break_when_any_done=False)
    long = rollout[1]
    assert long.get(("next", keys.ELAPSED)).flatten()[:4].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert long.get(("next", "terminated")).flatten()[:4].tolist() == [False] * 3 + [True]
    assert keys.ELAPSED not in set(goes_on.steered(2, 1.0).observation_spec.keys())


def test_a_clock_that_is_there_is_used(base: str) -> None:
    setup = set_up(TASK, base)
    assert not setup.needs_clock
    assert setup.steering_keys == [keys.OBSERVATION, keys.ELAPSED]


def test_the_time_limit_decides_when_the_reward_is_paid() -> None:
    q = CategoricalMI(MLP(15, 2), 2, in_keys=[keys.HISTORY])
    ends, goes_on = _counting("terminates"), _counting("truncates")
    assert ends.mi_reward(q, 0.5, None, 0.9).timing == "final"
    assert goes_on.mi_reward(q, 0.5, None, 0.9).timing == "difference"
    dense = goes_on.mi_reward(q, 0.5, "dense", 0.9)
    assert (dense.timing, float(dense.coef), dense.gamma) == ("dense", 0.5, 0.9)
    with pytest.raises(ConfigurationError, match="final.*truncat"):
        goes_on.mi_reward(q, 0.5, "final", 0.9)


def test_a_chunk_that_is_too_short_for_the_task_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="plays actions 0 to 11 .* makes 8; set execute"):
        set_up(
            replace(PENDULUM, options={"max_steps": 16, "execute": 12, "horizon": 12}),
            "tests.recipes.pendulum:policy",
        )
    setup = set_up(replace(PENDULUM, options={"execute": 3}), "tests.recipes.pendulum:policy")
    steps = setup.steered(2, 1.0).rollout(2).get(("next", keys.STEPS))
    assert torch.equal(steps, torch.full((2, 2, 1), 3))


def test_an_iteration_holds_the_longest_episode() -> None:
    setup = _counting("terminates")
    assert setup.decisions(None) == setup.task.max_decisions == 4
    assert setup.decisions(6) == 6
    with pytest.raises(ConfigurationError, match="at least 4, the longest episode"):
        setup.decisions(3)


def test_the_configuration_may_name_what_the_discoverer_sees(base: str) -> None:
    task = replace(TASK, num_envs=2)
    chosen = set_up(replace(task, feature_keys=("observation",), feature_dims=(1,)), base)
    assert (chosen.task.feature_keys, chosen.task.feature_dims) == (("observation",), (1,))
    assert chosen.steered(2, 1.0).observation_spec[keys.HISTORY].shape[-1] == 7
    assert set_up(replace(task, feature_dims=(0,)), base).task.feature_dims == (0,)
    read = set_up(replace(task, steering_keys=("observation", "mode")), base)
    assert read.steering_keys[:2] == ["observation", "mode"]
    for name in ("feature_keys", "steering_keys"):
        with pytest.raises(ConfigurationError, match="Did you mean 'observation'"):
            set_up(replace(task, **{name: ("observations",)}), base)
