"""Rows in several processes are a batch as in one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs.utils import check_env_specs

from modereg.errors import ConfigurationError, WorkerError
from modereg.tasks import GymnasiumEnv, WorkerEnv, environment_task, gymnasium_task
from modereg.tasks.workers import _rows
from modereg.testing import CountingEnv

TASK = gymnasium_task("Pendulum-v1", max_steps=6, success="at_end")
SHARE = 2


@pytest.fixture(scope="module")
def env() -> Iterator[WorkerEnv]:
    """Two workers of two rows each; the last test ends one."""
    made = WorkerEnv(TASK.make_env, 2 * SHARE, 2)
    yield made
    made.close(raise_if_closed=False)


def observed(env: WorkerEnv | GymnasiumEnv, actions: torch.Tensor) -> torch.Tensor:
    """Return what is seen at a reset and after each action ``[T, B, 1]``, ``[T + 1, B, 3]``."""
    data = env.reset()
    seen = [data["observation"]]
    for action in actions:
        data = env.step(data.set("action", action))["next"]
        seen.append(data["observation"])
    return torch.stack(seen)


def test_it_is_an_environment(env: WorkerEnv) -> None:
    check_env_specs(env)
    assert env.batch_size == (2 * SHARE,)
    assert env.success_counts == "at_end"  # type: ignore[attr-defined]


def test_rows_are_those_of_each_worker_and_no_two_share_a_stream(env: WorkerEnv) -> None:
    actions = torch.rand(4, 2 * SHARE, 1, generator=torch.Generator().manual_seed(0))
    env.set_seed(3)
    seen = observed(env, actions)
    seed, alone = 3, []
    for part in actions.split(SHARE, 1):
        one = TASK.make_env(SHARE)
        seed = one.set_seed(seed)
        alone.append(observed(one, part))
    assert torch.equal(seen, torch.cat(alone, 1))
    assert len(seen[0].unique(dim=0)) == 2 * SHARE
    env.set_seed(3)
    assert torch.equal(observed(env, actions), seen)


def test_the_rows_of_a_mask_begin_anew_and_the_others_stay(env: WorkerEnv) -> None:
    before = env.reset()
    mask = torch.tensor([[False], [True], [False], [False]])
    after = env.reset(before.clone().update(TensorDict({"_reset": mask}, [4])))
    moved = (after["observation"] != before["observation"]).any(-1)
    assert torch.equal(moved, mask.squeeze(-1))


def test_episodes_end_and_begin_anew(env: WorkerEnv) -> None:
    rolled = env.rollout(14, break_when_any_done=False)
    assert torch.equal(
        rolled["next", "done"].squeeze(-1).nonzero()[:, 1], torch.tensor([5, 11] * 4)
    )


@pytest.mark.parametrize("workers", [3, 0])
def test_workers_share_the_rows_equally(workers: int) -> None:
    with pytest.raises(ConfigurationError, match=f"divide the 4 environments, got {workers}"):
        WorkerEnv(TASK.make_env, 4, workers)


def test_one_that_has_ended_is_named(env: WorkerEnv) -> None:
    """It comes last: the environment is of no use after it."""
    data = env.rand_action(env.reset())
    pids = {process.pid for process in env._pool._workers}
    env._pool._workers[1].kill()
    env._pool._workers[1].join()
    with pytest.raises(
        WorkerError, match=r"number 1 has ended \(exit code -9\).* latest checkpoint"
    ):
        env.step(data)
    assert not pids & {process.pid for process in multiprocessing.active_children()}


class Strict(CountingEnv):
    """Ends after three steps, and takes no other before its reset."""

    success_counts = "at_end"

    def __init__(self) -> None:
        super().__init__(3)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        assert self._state[0] < 3
        return super()._step(tensordict)


def test_single_environments_that_have_ended_are_not_stepped() -> None:
    env = _rows(environment_task("strict", Strict, 9).make_env, 3)
    data, action = env.reset(), torch.zeros(3, 2)
    for _ in range(2):
        data = env.step_mdp(env.step(data.set("action", action)))
    data = env.reset(data.set("_reset", torch.tensor([[False], [True], [False]])))
    counts = []
    for _ in range(3):
        data = env.step(data.set("action", action))["next"]
        counts.append(data["observation"][:, 0].tolist())
    assert counts == [[3, 1, 3], [3, 2, 3], [3, 3, 3]]


def test_a_row_a_process_and_how_success_counts_within_transforms() -> None:
    task = environment_task("strict", Strict, 9)
    single: Any = task.make_env(2)
    assert single.base_env.success_counts == "at_end"
    assert _rows(task.make_env, 1).batch_size == (1,)
    assert WorkerEnv(task.make_env, 2, 2).success_counts == "at_end"  # type: ignore[attr-defined]
