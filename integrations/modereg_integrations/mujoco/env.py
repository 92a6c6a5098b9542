"""The maze as a batched TorchRL environment."""

from __future__ import annotations

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from modereg.errors import ConfigurationError
from modereg.keys import ACTION, ELAPSED, MODE, OBSERVATION, REWARD, SUCCESS
from modereg_integrations.mujoco.arrays import to_tensor
from modereg_integrations.mujoco.maze_geometry import (
    MAX_STEPS,
    NUM_MODES,
    START,
    Flags,
    Floats,
    gaps_of_modes,
    mark_gaps,
    modes_of_gaps,
    reaches_goal,
)
from modereg_integrations.mujoco.simulation import BallPhysics

__all__ = ["PointMaze", "route_pay"]


def route_pay(spread: float) -> Floats:
    """Pay of each route by its gap in the upper wall, ``1 + spread * (gap_2 - 1)``, ``[6]``.

    With a spread of .3 the gaps pay .7, 1 and 1.3, from left to right.
    """
    gap_2 = gaps_of_modes(np.arange(NUM_MODES))[:, 1].astype(np.float64)
    return 1 + spread * (gap_2 - 1)


class PointMaze(EnvBase):
    """Balls that forces push through mazes, batch size ``[num_envs]``, reset by mask.

    The action ``[N, 2]`` is the force in shares of the largest, clipped to [-1, 1]. An episode ends
    at the goal or after ``max_steps`` steps, which is a failure; walls stop the ball and end
    nothing. A row that has ended stays where it is, and earns nothing more.

    Entries, all written at reset and in ``next``:

    - ``observation``: ``[N, 4]``, velocity in metres a second, then position in metres, x and y.
    - ``elapsed``: ``[N, 1]`` in [0, 1], steps so far over ``max_steps``.
    - ``success``: ``[N, 1]`` bool.
    - ``mode``: ``[N, 1]`` int64, -1 until the upper wall is crossed; the first crossings count.
    - ``reward``: ``[N, 1]``, what the mode pays in the step that reaches the goal, else 0.

    Args:
        num_envs: batch size ``N``.
        pay_spread: how unequally the routes pay, see :func:`route_pay`; 0 pays 1 for each.
        start_noise: half-width of the uniform noise on the start, in metres.
        max_steps: time limit in environment steps, of .05 seconds each.
        seed: seed of the environment's own generator; None draws one from torch's.
        device: device of all tensors; the physics run on the CPU.

    Raises:
        MissingDependencyError: if MuJoCo is not installed.
        ConfigurationError: if an option is out of its range.
    """

    finished_rows_stay = True
    """Read by :class:`~modereg.transforms.ActionChunk`, which need not mask finished rows."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        pay_spread: float = 0.0,
        start_noise: float = 0.02,
        max_steps: int = MAX_STEPS,
        seed: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_envs < 1 or max_steps < 1 or not 0 <= start_noise <= 0.1:
            raise ConfigurationError(
                "expected num_envs >= 1, max_steps >= 1 and start_noise in [0, 0.1], got "
                f"{num_envs}, {max_steps} and {start_noise}; change the options of PointMaze."
            )
        self._physics = BallPhysics()
        super().__init__(device=device, batch_size=torch.Size([num_envs]))
        self.max_steps, self._start_noise = max_steps, start_noise
        self._pay = route_pay(pay_spread)
        self._make_specs()
        self._state = np.zeros((num_envs, 4))
        self._gaps = np.full((num_envs, 2), -1)
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._done = np.zeros(num_envs, dtype=np.bool_)
        self.set_seed(int(torch.empty((), dtype=torch.int64).random_()) if seed is None else seed)

    def _make_specs(self) -> None:
        batch, place = self.batch_size, {"device": self.device}
        flag = Binary(1, (*batch, 1), dtype=torch.bool, **place)
        self.observation_spec = Composite(
            {
                OBSERVATION: Unbounded((*batch, 4), **place),
                ELAPSED: Bounded(0.0, 1.0, (*batch, 1), **place),
                SUCCESS: flag.clone(),
                MODE: Bounded(-1, NUM_MODES - 1, (*batch, 1), dtype=torch.int64, **place),
            },
            shape=batch,
        )
        self.action_spec = Bounded(-1.0, 1.0, (*batch, 2), **place)
        self.reward_spec = Unbounded((*batch, 1), **place)
        self.done_spec = Composite({"done": flag, "terminated": flag.clone()}, shape=batch)

    def _set_seed(self, seed: int | None) -> None:
        self._generator = np.random.default_rng(seed)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: object) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        chosen = np.ones(len(self._steps), bool) if mask is None else mask.numpy(force=True).ravel()
        offset = self._generator.uniform(-1, 1, (len(chosen), 2)) * self._start_noise
        self._state[chosen, :2] = (START + offset)[chosen]
        self._state[chosen, 2:] = 0
        self._gaps[chosen] = -1
        self._steps[chosen] = 0
        return self._observe()

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        running = ~self._done
        if running.any():
            action = tensordict.get(ACTION).numpy(force=True)
            self._state[running] = self._physics.step(self._state[running], action[running])
            self._gaps = mark_gaps(self._gaps, self._state[:, :2])
            self._steps += running
        return self._observe(running)

    def _observe(self, running: Flags | None = None) -> TensorDictBase:
        success, mode = reaches_goal(self._state[:, :2]), modes_of_gaps(self._gaps)
        self._done = success | (self._steps >= self.max_steps)
        entries = {
            OBSERVATION: np.roll(self._state, 2, 1),
            ELAPSED: self._steps / self.max_steps,
            SUCCESS: success,
            MODE: mode,
            "done": self._done,
            "terminated": self._done,
        }
        if running is not None:
            entries[REWARD] = self._pay[mode] * (success & running)
        tensors = {key: to_tensor(value) for key, value in entries.items()}
        return TensorDict(tensors, self.batch_size, device=self.device)
