from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl.envs import EnvBase
from torchrl.envs.utils import check_env_specs

from modereg.errors import ConfigurationError, ShapeError
from modereg.tasks import Avoid, GaussianMixture

ENVS = [Avoid, GaussianMixture]


def play(env: EnvBase, steps: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    root = env.reset()
    observations = [root["observation"]]
    for _ in range(steps):
        action = 0.1 * torch.randn(*env.batch_size, 2, generator=generator)
        root = env.step(root.set("action", action))["next"]
        observations.append(root["observation"])
    return torch.stack(observations)


@pytest.mark.parametrize("make", ENVS)
@pytest.mark.parametrize("options", [{}, {"dtype": torch.float64}, {"max_steps": 3}])
def test_specs_hold(make: type[EnvBase], options: dict) -> None:
    for num_envs in (1, 5):
        check_env_specs(make(num_envs, **options))


def test_specs_hold_where_the_point_follows_exactly() -> None:
    env = Avoid(3, tracking=1.0)
    check_env_specs(env)
    assert env.observation_spec["observation"].shape == (3, 2)


@pytest.mark.parametrize("make", ENVS)
def test_seeds_reproduce_and_differ(make: type[EnvBase]) -> None:
    first, same, other = make(4, seed=1), make(4, seed=1), make(4, seed=2)
    path = play(first, 5)
    assert torch.equal(path, play(same, 5))
    assert not torch.equal(path, play(other, 5))
    assert not torch.equal(path, play(first, 5))  # the generator went on
    first.set_seed(1)
    assert torch.equal(path, play(first, 5))


def test_moving_to_where_it_is_keeps_seed_and_state() -> None:
    env, same = Avoid(3, seed=1), Avoid(3, seed=1)
    assert torch.equal(play(env.to("cpu"), 3), play(same, 3))
    assert torch.equal(env.to(torch.device("cpu")).reset()["observation"], play(same, 0)[0])


def test_the_global_generator_is_left_alone_once_seeded() -> None:
    env = Avoid(4, seed=0)
    state = torch.get_rng_state()
    env.reset()
    assert torch.equal(state, torch.get_rng_state())


def test_unseeded_environments_follow_torch_manual_seed() -> None:
    torch.manual_seed(5)
    first = play(Avoid(4), 1)
    torch.manual_seed(5)
    assert torch.equal(first, play(Avoid(4), 1))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_environments_can_be_copied(clone: object) -> None:
    env = Avoid(2, seed=0)
    assert torch.equal(play(clone(env), 3), play(env, 3))


@pytest.mark.parametrize("make", ENVS)
def test_a_partial_reset_touches_only_its_rows(make: type[EnvBase]) -> None:
    env = make(4, seed=0)
    before = env.rollout(3)[:, -1]["next"].clone()
    mask = torch.tensor([[True], [False], [True], [False]])
    after = env.reset(before.clone().set("_reset", mask))
    kept = ~mask.squeeze(-1)
    for key in ("observation", "elapsed", "mode", "success", "done"):
        assert torch.equal(after[key][kept], before[key][kept])
    assert (after["elapsed"][mask] == 0).all()
    fresh = make(4, seed=0)
    fresh.reset()
    assert torch.equal(after["observation"][~kept], fresh.reset()["observation"][~kept])


@pytest.mark.parametrize("make", ENVS)
def test_rows_that_were_not_reset_go_on_as_if_nothing_had_happened(make: type[EnvBase]) -> None:
    action = torch.full((3, 2), 0.01)
    env, twin = make(3, seed=0), make(3, seed=0)
    root, other = env.reset(), twin.reset()
    for step in range(6):
        root = env.step(root.set("action", action))["next"]
        other = twin.step(other.set("action", action))["next"]
        if step == 2:
            root = env.reset(root.set("_reset", torch.tensor([[False], [True], [False]])))
    for key in ("observation", "elapsed", "mode", "done"):
        assert torch.equal(root[key][::2], other[key][::2])
    assert root["elapsed"][1].item() == pytest.approx(3 / env.max_steps)
    assert not torch.equal(root["observation"][1], other["observation"][1])


def test_observations_handed_out_never_change_later() -> None:
    env = Avoid(3, seed=0)
    root = env.reset()
    kept = root.clone()
    env.step(root.clone().set("action", torch.ones(3, 2)))
    mask = torch.tensor([[True], [False], [False]])
    env.reset(root.clone().set("_reset", mask))
    assert (root == kept).all()


def test_what_a_caller_writes_into_done_does_not_reach_the_environment() -> None:
    env = Avoid(1, start_noise=0.0)
    root = env.step(env.reset().set("action", torch.zeros(1, 2)))["next"]
    root["done"].fill_(True)
    assert root["terminated"].item() is False
    moved = env.step(root.set("action", torch.ones(1, 2)))["next"]
    assert not torch.equal(moved["observation"], root["observation"])


@pytest.mark.parametrize("make", ENVS)
def test_running_out_of_time_is_a_terminal_failure(make: type[EnvBase]) -> None:
    env = make(2, max_steps=4)
    rollout = env.rollout(10, policy=lambda td: td.set("action", torch.zeros(2, 2)))
    assert rollout.shape[1] == 4
    last = rollout[:, -1]["next"]
    assert last["terminated"].all()
    assert not last["success"].any()
    assert (last["reward"] == 0).all()
    assert torch.equal(rollout["elapsed"][0, :, 0], torch.arange(4) / 4)


def test_actions_are_clipped() -> None:
    env = Avoid(1, start_noise=0.0)
    root = env.reset()
    there = env.step(root.clone().set("action", torch.tensor([[5.0, -5.0]])))["next", "observation"]
    expected = torch.tensor([0.525 + 0.015, -0.28 - 0.015])
    torch.testing.assert_close(there[0, :2], expected)


def test_the_current_position_lags_behind_the_desired_one() -> None:
    env = Avoid(1, start_noise=0.0, tracking=0.5)
    root, desired, current = env.reset(), -0.28, -0.28
    for _ in range(5):
        root = env.step(root.set("action", torch.tensor([[0.0, 0.01]])))["next"]
        desired += 0.01
        current += 0.5 * (desired - current)
        torch.testing.assert_close(root["observation"][0, 1::2], torch.tensor([desired, current]))


@pytest.mark.parametrize(
    "options",
    [{"tracking": 0.0}, {"tracking": 1.5}, {"start_noise": -1.0}, {"max_steps": 0}],
)
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ConfigurationError, match="must be"):
        Avoid(2, **options)


def test_pay_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"shape \[24\], got \[4\]"):
        Avoid(2, pay=torch.ones(4))
    with pytest.raises(ShapeError, match=r"shape \[4\], got \[1, 4\]"):
        GaussianMixture(2, pay=torch.ones(1, 4))


class Counting(TorchDispatchMode):
    """Counts the operations that torch is asked for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("make", ENVS)
def test_a_step_takes_few_operations_however_many_rows(make: type[EnvBase]) -> None:
    counts = []
    for rows in (1, 1024):  # benchmarks/env_speed.py has the steps a second
        env = make(rows)
        root = env.reset().set("action", env.rand_action()["action"])
        with Counting() as counting:
            env.step(root)
        counts.append(counting.count)
    assert counts[0] == counts[1] <= 50
