from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torchrl.envs.utils import check_env_specs

from modereg import keys
from modereg.errors import ConfigurationError, ShapeError
from modereg.layout import Layout
from modereg.policies import GenerativePolicy
from modereg.priors import CategoricalPrior, NormalPrior
from modereg.recipes.config import TaskConfig
from modereg.recipes.setup import check_device, check_trust, discrete, set_up
from modereg.tasks import Task, WorkerEnv
from modereg.testing import CountingEnv, TinyPolicy
from tests.recipes.conftest import TASK

PENDULUM = TaskConfig("gymnasium:Pendulum-v1", {"max_steps": 16}, 2)
TORQUES = "tests.recipes.pendulum:policy"
HERE = "tests.recipes.test_setup"


def ending() -> Task:
    """Return a task whose time limit terminates."""
    return _counting("terminates")


def going_on() -> Task:
    """Return a task whose time limit truncates."""
    return _counting("truncates")


def _counting(time_limit: str) -> Task:
    layout = Layout(8, execute=2, horizon=4, time_limit=time_limit)
    return Task("counting", lambda num_envs: CountingEnv([3, 9][:num_envs]), layout, num_envs=2)


def counting_policy() -> GenerativePolicy:
    """Return chunks of 4 actions for the counting environment."""
    return TinyPolicy(3)


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


def test_each_steered_environment_is_one_of_its_own_with_one_discount(base: str) -> None:
    setup = set_up(replace(TASK, num_envs=3, gamma=0.9), base)
    before = torch.get_rng_state()
    learns, judges = setup.steered(2), setup.steered(2, 1.0)
    assert learns.base_env is not judges.base_env
    assert torch.equal(torch.get_rng_state(), before)
    assert (learns.layout.gamma, judges.layout.gamma) == (0.9, 1.0)
    assert learns.layout.differences(judges.layout) == []


def test_where_time_runs_out_it_can_be_read() -> None:
    ends = set_up(TaskConfig(f"{HERE}:ending"), f"{HERE}:counting_policy")
    goes_on = set_up(TaskConfig(f"{HERE}:going_on"), f"{HERE}:counting_policy")
    assert ends.layout.steered_by == [keys.OBSERVATION, keys.ELAPSED]
    assert goes_on.layout.steered_by == [keys.OBSERVATION]
    rollout = ends.steered(2, 1.0).rollout(6, break_when_any_done=False)
    long = rollout[1]
    assert long.get(("next", keys.ELAPSED)).flatten()[:4].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert long.get(("next", "terminated")).flatten()[:4].tolist() == [False] * 3 + [True]
    assert keys.ELAPSED not in set(goes_on.steered(2, 1.0).observation_spec.keys())


def test_a_chunk_that_is_too_short_for_the_task_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least 12 actions, of which 0 to 11 are .* with 8;"):
        set_up(replace(PENDULUM, execute=12), TORQUES)
    setup = set_up(replace(PENDULUM, execute=3, offset=1), TORQUES)
    assert (setup.layout.execute, setup.layout.offset, setup.layout.horizon) == (3, 1, 8)
    steps = setup.steered(2, 1.0).rollout(2).get(("next", keys.STEPS))
    assert torch.equal(steps, torch.full((2, 2, 1), 3))


def test_the_configuration_may_name_what_the_discoverer_sees(base: str) -> None:
    task = replace(TASK, num_envs=2)
    chosen = set_up(replace(task, feature_keys=("observation",), feature_dims=(1,)), base)
    assert (chosen.layout.feature_keys, chosen.layout.feature_dims) == (("observation",), (1,))
    assert chosen.steered(2, 1.0).observation_spec[keys.HISTORY].shape[-1] == 7
    assert set_up(replace(task, feature_dims=(0,)), base).layout.feature_dims == (0,)
    read = set_up(replace(task, steering_keys=("observation", "mode")), base)
    assert read.layout.steered_by == ["observation", "mode", keys.ELAPSED]
    assert set_up(replace(task, feature_noise=0.5), base).task.feature_noise == 0.5
    for name in ("feature_keys", "steering_keys"):
        with pytest.raises(ConfigurationError, match="Did you mean 'observation'"):
            set_up(replace(task, **{name: ("observations",)}), base)


def test_no_command_line_puts_an_episode_into_another_time(base: str) -> None:
    setup = set_up(TASK, base)
    assert (setup.layout.max_steps, setup.layout.max_decisions) == (24, 6)


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "mps:7"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"device of this machine.* got '{name}'"):
        check_device(name)


def test_judged_codes_are_discrete() -> None:
    prior = CategoricalPrior(3)
    assert discrete(prior) is prior
    with pytest.raises(ConfigurationError, match="expected discrete codes, each of which"):
        discrete(NormalPrior(2))


@pytest.mark.parametrize(
    ("task", "base", "named"),
    [
        ("somewhere:make", "runs/base", "'somewhere:make'"),
        ("task:avoid", "subprocess:getoutput", "'subprocess:getoutput'"),
        ("gymnasium:os:x", "runs/base", "'gymnasium:os:x'"),
    ],
)
def test_code_that_a_file_names_is_followed_only_if_trusted(
    task: str, base: str, named: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"the file names code to import, {named}, which"):
        check_trust("the file", task=task, base=base, trust=False)
    check_trust("the file", task=task, base=base, trust=True)
    check_trust("the file", task="gymnasium:Pendulum-v1", base="runs/base", trust=False)


def test_an_environment_of_the_task_is_made_once_for_those_who_look(base: str) -> None:
    setup = set_up(TASK, base)
    made: list[object] = []
    make: Callable[..., Any] = setup.task.make_env

    def counted(*args: Any, **options: Any) -> Any:
        made.append(1)
        return make(*args, **options)

    setup.task = replace(setup.task, make_env=counted)
    assert setup.env is setup.env
    assert len(made) == 1


def test_environments_in_workers_are_on_the_cpu() -> None:
    setup = set_up(replace(PENDULUM, workers=2), TORQUES)
    assert isinstance(setup.make_env(), WorkerEnv)
    assert not isinstance(setup.env, WorkerEnv)
    assert setup.env_device == torch.device("cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 3}, "workers that divide the 2 environments, got 3; .*--task.workers"),
        ({"workers": 2, "device": "cuda"}, "workers on the CPU, got --task.device cuda; leave"),
    ],
)
def test_workers_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        set_up(replace(PENDULUM, **changes), TORQUES)
