"""A batch of environments that is stepped by several processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, ParallelEnv, SerialEnv, TransformedEnv

from modereg.errors import ConfigurationError, WorkerError

__all__ = ["WorkerEnv", "check_workers"]

PROMISES = ("success_counts", "max_steps")
"""Attributes by which environments say how they count, which hold for their rows here too."""


class WorkerEnv(EnvBase):
    """Rows of a batch in several processes, ``[B]`` as in one: for simulators that take their time.

    Each process has ``B / workers`` rows in their order, and one thread; what it returns passes
    through shared memory (TorchRL's ``ParallelEnv``). The policy decodes for all rows in one batch,
    here. Codes, histories and chunks are kept by transforms outside, and so know of no process.
    :meth:`set_seed` gives each process a seed of its own: for one number of workers the same seeds
    give the same run, for another one other episodes.

    Processes are started at the first reset, and end with this one, however that ends.

    Args:
        make: called as ``make(num_envs)``, in each process: it must be possible to pickle it.
        num_envs: batch size B.
        workers: number of processes, which divides B.

    Raises:
        ConfigurationError: if there is no worker, or they do not share the rows equally.
        WorkerError: in a step or reset, if a process has ended.
    """

    def __init__(self, make: Callable[..., EnvBase], num_envs: int, workers: int) -> None:
        check_workers(num_envs, workers)
        super().__init__(device="cpu", batch_size=torch.Size([num_envs]))
        one = make(1)
        innermost = _innermost(one)
        for name in PROMISES:
            if hasattr(type(innermost), name) or name in vars(innermost):
                setattr(self, name, getattr(innermost, name))
        one.close(raise_if_closed=False)
        share = partial(_rows, make, num_envs // workers)
        self._pool = ParallelEnv(workers, share, mp_start_method="spawn", daemon=True)
        self._split = (workers, num_envs // workers)
        self.observation_spec = self._pool.full_observation_spec.flatten(0, 1)
        self.action_spec = self._pool.full_action_spec.flatten(0, 1)
        self.reward_spec = self._pool.full_reward_spec.flatten(0, 1)
        self.done_spec = self._pool.full_done_spec.flatten(0, 1)

    def _set_seed(self, seed: int | None) -> None:
        self._ask(lambda: self._pool.set_seed(seed))

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        rows = None if tensordict is None else self._divided(tensordict)
        return self._together(self._ask(lambda: self._pool.reset(rows)))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        rows = self._divided(tensordict)
        return self._together(self._ask(lambda: self._pool._step(rows)))

    def _divided(self, tensordict: TensorDictBase) -> TensorDictBase:
        rows = tensordict.exclude("_step")  # each process knows by itself which rows have ended
        return rows.unflatten(0, self._split)

    def _together(self, tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict.flatten(0, 1)

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Return the answer of the processes.

        Raises:
            WorkerError: if one of them has ended.
        """
        try:
            return question()
        except Exception as error:
            lost = self._lose()
            if not lost and not isinstance(error, EOFError | ConnectionError):  # while they start
                raise
            raise WorkerError(
                f"expected {self._split[0]} processes with environments, but "
                f"{lost or 'one has ended'}, and its episodes are lost; look at its last words, "
                "and go on from the latest checkpoint"
            ) from error

    def _lose(self) -> str:
        """End the other processes if one has ended by itself, and say which."""
        processes = list(self._pool.__dict__.get("_workers", ()))
        dead = [(number, each) for number, each in enumerate(processes) if not _runs(each)]
        if not dead:
            return ""
        for process in processes:
            if _runs(process):
                process.kill()
        self._pool.is_closed = True
        number, process = max(dead, key=lambda pair: _exit_code(pair[1]) is not None)
        return f"number {number} has ended (exit code {_exit_code(process)})"

    def close(self, *, raise_if_closed: bool = True) -> None:
        """End the processes."""
        self._ask(lambda: self._pool.close(raise_if_closed=False))
        super().close(raise_if_closed=raise_if_closed)


def _runs(process: Any) -> bool:
    try:
        return process.is_alive()
    except ValueError:  # TorchRL has closed it
        return False


def _exit_code(process: Any) -> int | None:
    try:
        return process.exitcode
    except ValueError:
        return None


def check_workers(num_envs: int, workers: int) -> None:
    """Refuse workers that do not share the environments equally.

    Raises:
        ConfigurationError: if there is none, or their number does not divide that of environments.
    """
    if workers < 1 or num_envs % workers:
        raise ConfigurationError(
            f"expected workers that divide the {num_envs} environments, got {workers}; choose "
            "another number of either (--task.workers, --task.num-envs)"
        )


def _rows(make: Callable[..., EnvBase], number: int) -> EnvBase:
    """Return the environment of a process, ``[number]``."""
    env = make(number)
    if not env.batch_size:
        env = SerialEnv(1, partial(_same, env))
    return _Resting(env) if isinstance(_innermost(env), SerialEnv) else env


def _same(env: EnvBase) -> EnvBase:
    return env


def _innermost(env: EnvBase) -> EnvBase:
    while isinstance(env, TransformedEnv):
        env = env.base_env
    return env


class _Resting(EnvBase):
    """Single environments side by side, of which those that have ended are not stepped."""

    def __init__(self, env: EnvBase) -> None:
        super().__init__(device=env.device, batch_size=env.batch_size)
        self._env = env
        self.observation_spec = env.full_observation_spec.clone()
        self.action_spec = env.full_action_spec.clone()
        self.reward_spec = env.full_reward_spec.clone()
        self.done_spec = env.full_done_spec.clone()

    def _set_seed(self, seed: int | None) -> None:
        self._env.set_seed(seed)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        self._latest = self._env.reset(tensordict)
        return self._latest.exclude("_reset").clone()

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        alive = self._latest.get("done").logical_not().reshape(self.batch_size)
        data = tensordict.clone().update(self._latest.exclude("reward"))  # what rows that rest keep
        if not bool(alive.all()):
            data.set("_step", alive)
        self._latest = self._env._step(data)
        return self._latest.clone()

    def close(self, *, raise_if_closed: bool = True) -> None:
        """End the environments."""
        self._env.close(raise_if_closed=False)
        super().close(raise_if_closed=raise_if_closed)
