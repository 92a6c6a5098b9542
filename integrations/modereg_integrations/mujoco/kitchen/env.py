"""FrankaKitchen as a batched TorchRL environment."""

from __future__ import annotations

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from modereg.errors import ConfigurationError
from modereg.keys import ACTION, ELAPSED, MODE, OBSERVATION, REWARD, SUCCESS
from modereg_integrations.mujoco.arrays import to_tensor
from modereg_integrations.mujoco.kitchen.simulation import ARM, KitchenPhysics
from modereg_integrations.mujoco.kitchen.subtasks import (
    GOALS,
    SUBTASKS,
    complete,
    mark_order,
    modes_of_orders,
    orders,
)
from modereg_integrations.mujoco.maze_geometry import Flags, Floats, Ints

__all__ = ["HAND", "MAX_STEPS", "FrankaKitchen", "order_pay", "watched"]

HAND = "hand"
MAX_STEPS = {2: 200, 3: 280, 4: 360}
"""Time limits by the number of subtasks; 280 is that of FrankaKitchen-v1."""


def watched(num_subtasks: int) -> list[int]:
    """Return which entries of ``qpos`` are of the subtasks' objects; of the kettle its place."""
    return [each for name in SUBTASKS[:num_subtasks] for each in GOALS[name][0][:3]]


def order_pay(num_subtasks: int, spread: float) -> Floats:
    """Pay of each order, evenly from ``1 + spread`` for the first to ``1 - spread``, ``[n!]``."""
    return np.linspace(1 + spread, 1 - spread, len(orders(num_subtasks)))


class FrankaKitchen(EnvBase):
    """Frankas in kitchens, which complete subtasks in any order, batch size ``[num_envs]``.

    Physics, action, sensors and what completes a subtask are those of FrankaKitchen-v1 of
    gymnasium-robotics: nine velocities of joints in shares of 2 radians a second, clipped to
    [-1, 1], 12.5 times a second. An episode ends when all subtasks have been complete, each at any
    time, or after ``max_steps`` steps, which is a failure. The mode is the order in which they were
    completed. A row that has ended stays as it is, and earns nothing more. Every row has sensors of
    its own, so what one does next hangs on no other.

    Entries, all written at reset and in ``next``:

    - ``observation``: ``[N, 12 + O]``, of FrankaKitchen-v1's the positions of the nine joints and
      of the O that :func:`watched` counts among the objects, with the sensors' noise, and where the
      hand is. The rest of its 59 is noise around what never moves, and velocities.
    - ``hand``: ``[N, 3]``, x, y and z of the hand in metres.
    - ``elapsed``: ``[N, 1]`` in [0, 1], steps so far over ``max_steps``.
    - ``success``: ``[N, 1]`` bool.
    - ``mode``: ``[N, 1]`` int64, -1 until one subtask at most is left; the row of
      :func:`~modereg_integrations.mujoco.kitchen.subtasks.orders`.
    - ``reward``: ``[N, 1]``, what the order pays in the step that completes the last subtask; with
      ``subtask_reward`` also 1 in a step for each other one that it completes.

    Args:
        num_envs: batch size ``N``.
        subtasks: how many are to be completed, the first of kettle, light switch, slide cabinet
            and microwave: 2, 3 or 4, of which there are 2, 6 or 24 orders.
        pay_spread: how unequally orders pay, see :func:`order_pay`; 0 pays 1 for each.
        subtask_reward: whether every subtask pays when it is completed, as in FrankaKitchen-v1.
        max_steps: time limit in environment steps, of .08 seconds each; None: 200, 280 or 360.
        seed: seed of the environment's own generator; None draws one from torch's.
        device: device of all tensors; the physics run on the CPU.

    Raises:
        MissingDependencyError: if MuJoCo or gymnasium-robotics is not installed.
        ConfigurationError: if an option is out of its range.
    """

    finished_rows_stay = True
    """Read by :class:`~modereg.transforms.ActionChunk`, which need not mask finished rows."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        subtasks: int = 3,
        pay_spread: float = 0.0,
        subtask_reward: bool = False,
        max_steps: int | None = None,
        seed: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if subtasks not in MAX_STEPS:
            raise ConfigurationError(
                f"expected 2, 3 or {len(SUBTASKS)} subtasks of {', '.join(SUBTASKS)}, got "
                f"{subtasks}; change subtasks."
            )
        max_steps = MAX_STEPS[subtasks] if max_steps is None else max_steps
        if num_envs < 1 or max_steps < 1:
            raise ConfigurationError(
                f"expected num_envs >= 1 and max_steps >= 1, got {num_envs} and {max_steps}; "
                "change the options of FrankaKitchen."
            )
        self.physics = KitchenPhysics()
        super().__init__(device=device, batch_size=torch.Size([num_envs]))
        self.max_steps, self._num_subtasks = max_steps, subtasks
        self._pay, self._subtask_reward = order_pay(subtasks, pay_spread), subtask_reward
        self._shown = [*range(ARM), *(each + ARM for each in watched(subtasks))]
        self._make_specs()
        self._begin = self.physics.start()
        self.states = np.tile(self._begin, (num_envs, 1))
        self._seen, self._hand = np.zeros((num_envs, 59)), np.zeros((num_envs, 3))
        self.order: Ints = np.full((num_envs, subtasks), -1)
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self.set_seed(int(torch.empty((), dtype=torch.int64).random_()) if seed is None else seed)

    def _make_specs(self) -> None:
        batch, place = self.batch_size, {"device": self.device}
        flag = Binary(1, (*batch, 1), dtype=torch.bool, **place)
        last = len(self._pay) - 1
        self.observation_spec = Composite(
            {
                OBSERVATION: Unbounded((*batch, len(self._shown) + 3), **place),
                HAND: Unbounded((*batch, 3), **place),
                ELAPSED: Bounded(0.0, 1.0, (*batch, 1), **place),
                SUCCESS: flag.clone(),
                MODE: Bounded(-1, last, (*batch, 1), dtype=torch.int64, **place),
            },
            shape=batch,
        )
        self.action_spec = Bounded(-1.0, 1.0, (*batch, ARM), **place)
        self.reward_spec = Unbounded((*batch, 1), **place)
        self.done_spec = Composite({"done": flag, "terminated": flag.clone()}, shape=batch)

    def _set_seed(self, seed: int | None) -> None:
        self._sensors = np.random.default_rng(seed).spawn(self.batch_size[0])

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: object) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        chosen = np.ones(len(self._steps), bool) if mask is None else mask.numpy(force=True).ravel()
        self.states[chosen] = self._begin
        self.order[chosen] = -1
        self._steps[chosen] = 0
        for row in np.flatnonzero(chosen).tolist():
            self.physics.load(self.states[row])
            self._sense(row)
        return self._entries()

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        running = np.flatnonzero(~self._done())
        action = tensordict.get(ACTION).numpy(force=True).astype(np.float64)
        before = (self.order >= 0).sum(-1)
        for row in running.tolist():
            felt = self._seen[row, :ARM]
            self.states[row] = self.physics.step(self.states[row], action[row], felt)
            now = complete(self.physics.data.qpos, self._num_subtasks)
            self.order[row] = mark_order(self.order[row], now)
            self._sense(row)
        self._steps[running] += 1
        after = (self.order >= 0).sum(-1)
        pay = self._pay[modes_of_orders(self.order)] * ((after > before) & self._success())
        if self._subtask_reward:
            pay = pay + (after - before) - ((after > before) & self._success())
        return self._entries().set(REWARD, to_tensor(pay).to(self.device))

    def _sense(self, row: int) -> None:
        self._seen[row] = self.physics.observe(self._sensors[row])
        self._hand[row] = self.physics.hand()

    def _success(self) -> Flags:
        return np.asarray((self.order >= 0).all(-1))

    def _done(self) -> Flags:
        return self._success() | (self._steps >= self.max_steps)

    def _entries(self) -> TensorDict:
        entries = {
            OBSERVATION: np.concatenate([self._seen[:, self._shown], self._hand], 1),
            HAND: self._hand,
            ELAPSED: self._steps / self.max_steps,
            SUCCESS: self._success(),
            MODE: modes_of_orders(self.order),
            "done": self._done(),
            "terminated": self._done(),
        }
        tensors = {key: to_tensor(value) for key, value in entries.items()}
        return TensorDict(tensors, self.batch_size, device=self.device)
