"""Gymnasium's vector environments inside an action chunk, and whether ends are seen truly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gymnasium.vector import VectorEnv
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs import EnvBase, Transform
from torchrl.envs.transforms import AutoResetEnv, TransformedEnv, VecGymEnvTransform

from modereg._torchrl import (
    fills_terminal_with_nan,
    forget_restarts,
    gymnasium_env,
    remember_restarts,
    workers,
)
from modereg.errors import ConfigurationError, TerminalObservationError
from modereg.transforms._common import transforms_within

__all__ = [
    "RestartedRows",
    "check_terminal_observations",
    "resets_itself",
    "restarted_rows",
]

_FIX = (
    "use modereg.tasks.GymnasiumEnv, SerialEnv or ParallelEnv of single environments, or, if the "
    "observation is one Box, "
    "GymWrapper(SyncVectorEnv(..., autoreset_mode=AutoresetMode.SAME_STEP))"
)


def check_terminal_observations(env: EnvBase, inner: Sequence[Transform] = ()) -> None:
    """Refuse an environment that does not report the true observation at the end of an episode.

    Raises:
        TerminalObservationError: if the environment, or a worker of it that has started, resets
            itself and loses the observation in which an episode ended.
    """
    for level in _levels(env):
        if fills_terminal_with_nan(level):
            _refuse(level, "native_autoreset fills it with NaN")
        if isinstance(level, AutoResetEnv):
            _refuse(level, "auto_reset=True fills it with NaN")
    if resets_itself(env, inner):
        mode = _mode(_base(env))
        if mode != "SAME_STEP":
            _refuse(env, f"autoreset_mode {mode} does not return it and TorchRL writes zeros")
        space = getattr(gymnasium_env(_base(env)), "single_observation_space", None)
        if type(space).__name__ != "Box":
            _refuse(env, f"TorchRL reads it for one Box alone and writes zeros for {space}")
    for worker in workers(_base(env)):
        check_terminal_observations(worker)


def _refuse(env: EnvBase, reason: str) -> None:
    raise TerminalObservationError(
        f"expected the true observation at the end of an episode, but {type(env).__name__} loses "
        f"it: {reason}; {_FIX}"
    )


def _levels(env: EnvBase) -> list[EnvBase]:
    levels = [env]
    while isinstance(levels[-1], (TransformedEnv, AutoResetEnv)):
        levels.append(levels[-1].base_env)
    return levels


def _base(env: EnvBase) -> EnvBase:
    return _levels(env)[-1]


def _mode(env: EnvBase) -> str | None:
    """Return the name of a Gymnasium vector environment's auto-reset mode, None without one."""
    gym_env = gymnasium_env(env)
    mode = getattr(gym_env, "autoreset_mode", None)
    if mode is None and isinstance(gym_env, VectorEnv):  # before 1.3 its single ones share it
        mode = (getattr(gym_env, "metadata", None) or {}).get("autoreset_mode", None)
    return getattr(mode, "name", None)


class RestartedRows:
    """Sub-environments of a Gymnasium vector environment that finished inside a chunk.

    Such an environment can only be stepped as a whole. With SAME_STEP a finished row runs on in a
    new episode, which :meth:`settle` throws away for a fresh start. With DISABLED it must be reset
    before the next step (:meth:`before_step`), and is reset once more by TorchRL at the end.

    Args:
        base: the ``GymWrapper``.
        buffer: TorchRL's transform that keeps the fresh observations of SAME_STEP, else None.
    """

    def __init__(self, base: EnvBase, buffer: VecGymEnvTransform | None) -> None:
        self.base, self.buffer = base, buffer

    def _restart(self, rows: Tensor) -> Any:
        mask = rows.reshape(-1).cpu().numpy()
        observation, _ = gymnasium_env(self.base).reset(options={"reset_mask": mask})
        return observation

    def before_step(self, done: Tensor) -> None:
        """Make rows ``[*B]`` that ended in the latest step ready to be stepped."""
        if self.buffer is None and bool(done.any()):
            self._restart(done)

    def forget(self) -> None:
        """Before a full reset: TorchRL would take the last partial end for the rows to reset."""
        if self.buffer is not None:
            forget_restarts(self.buffer)

    def settle(self, early: Tensor, finished: Tensor) -> None:
        """Give the rows that ended before the last step of the chunk a fresh start.

        Args:
            early: rows ``[*B]`` that ended before the last step.
            finished: all rows ``[*B]`` that ended in this chunk.
        """
        if self.buffer is None or bool(finished.all()):
            return
        entries = self.base.read_obs(self._restart(early))
        fresh = TensorDict(entries, self.base.batch_size, device=self.base.device).clone()
        remember_restarts(self.buffer, finished, fresh)


def resets_itself(env: EnvBase, inner: Sequence[Transform]) -> bool:
    """Return whether the environment resets finished rows within their last step."""
    return any(isinstance(m, VecGymEnvTransform) for m in transforms_within(env, inner))


def restarted_rows(env: EnvBase, inner: Sequence[Transform]) -> RestartedRows | None:
    """Return how to handle finished rows, None where they can simply be left out or stepped on.

    Raises:
        ConfigurationError: if a vector environment sits inside workers.
    """
    if any(_mode(_base(worker)) is not None for worker in workers(_base(env))):
        raise ConfigurationError(
            "expected single environments inside the workers of a batched environment, got "
            "Gymnasium vector environments; put ActionChunk inside each worker"
        )
    base = _base(env)
    mode = _mode(base)
    if mode is None or not base.batch_size:
        return None
    buffers = [m for m in transforms_within(env, inner) if isinstance(m, VecGymEnvTransform)]
    return RestartedRows(base, buffers[0] if buffers else None)
