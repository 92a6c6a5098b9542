"""A point that is led through a plane: what the embedded tasks have in common."""

from __future__ import annotations

from abc import abstractmethod

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from modereg.errors import ConfigurationError, ShapeError
from modereg.keys import ACTION, ELAPSED, MODE, OBSERVATION, REWARD, SUCCESS

__all__ = ["PlanarEnv"]


class PlanarEnv(EnvBase):
    """Batched environments in which an action moves the desired position of a point.

    The action ``[N, 2]`` is a step of the desired position, clipped to ``+-max_delta`` per axis;
    the current position closes the share ``tracking`` of its distance to the desired one in every
    step (a first-order lag; 1 means that it follows exactly). An episode ends in success, in
    failure, or after ``max_steps`` steps, which is a failure too: so the time is part of the state,
    and stands in its own entry. A sub-environment that has ended stays where it is, whatever it is
    told, and earns nothing more.

    Entries, all written at reset and in ``next``:

    - ``observation``: ``[N, 4]``, desired x and y, current x and y, in metres; ``[N, 2]``, the
      current position, where ``tracking`` is 1.
    - ``elapsed``: ``[N, 1]`` in [0, 1], steps so far over ``max_steps``.
    - ``success``: ``[N, 1]`` bool.
    - ``mode``: ``[N, 1]`` int64, -1 until it is decided.
    - ``reward``: ``[N, 1]``, ``pay[mode]`` in the step that succeeds, else 0.

    Args:
        num_envs: batch size ``N``.
        start: x and y at the start.
        start_noise: half-width of the uniform noise on the start.
        max_delta: largest step of the desired position per axis.
        max_steps: time limit in environment steps.
        tracking: share of the lag that is closed in a step, in (0, 1].
        pay: ``[M]``, reward for success in each mode.
        seed: seed of the environment's own generator; None draws one from torch's.
        device: device of all tensors.
        dtype: floating-point type of observations, actions and rewards.

    Raises:
        ConfigurationError: if an option is out of its range.
        ShapeError: if ``pay`` is not a vector.
    """

    finished_rows_stay = True
    """Read by :class:`~modereg.transforms.ActionChunk`, which need not mask finished rows."""

    def __init__(
        self,
        num_envs: int,
        *,
        start: tuple[float, float],
        start_noise: float,
        max_delta: float,
        max_steps: int,
        tracking: float,
        pay: Tensor,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        _check_options(num_envs, start_noise, max_delta, max_steps, tracking, pay)
        super().__init__(device=device, batch_size=torch.Size([num_envs]))
        self._dtype = dtype
        self.max_delta, self.max_steps, self.tracking = max_delta, max_steps, tracking
        self._start_position, self._start_noise = start, start_noise
        self.pay = pay.to(dtype=dtype)
        self._make_specs()
        self._allocate()
        self.set_seed(int(torch.empty((), dtype=torch.int64).random_()) if seed is None else seed)

    @property
    def num_modes(self) -> int:
        """Number of modes ``M``."""
        return self.pay.shape[0]

    @abstractmethod
    def judge(self, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Says whether positions ``[N, 2]`` are a success or a failure, and which mode they show.

        Returns success and failure, ``[N]`` bool each, and the mode of the episode, ``[N]`` int64,
        -1 while undecided. It may remember the path, and is called once a step. For a position
        that does not change it must repeat its answer.
        """

    def _forget(self, mask: Tensor) -> None:
        """Drops what :meth:`judge` remembers of the sub-environments in ``mask`` (``[N, 1]``)."""

    def to(self, device: torch.device | str) -> PlanarEnv:
        """Moves the environment to another device, where it starts again from its last seed."""
        if torch.device(device) != self.device:
            super().to(device)
            self._allocate()
            self._set_seed(self._seed)
        return self

    def _make_specs(self) -> None:
        batch, common = self.batch_size, {"device": self.device, "dtype": self._dtype}
        width = 2 if self.tracking == 1 else 4
        self.observation_spec = Composite(
            {
                OBSERVATION: Unbounded((*batch, width), **common),
                ELAPSED: Bounded(0.0, 1.0, (*batch, 1), **common),
                SUCCESS: Binary(1, (*batch, 1), device=self.device, dtype=torch.bool),
                MODE: Bounded(
                    -1, self.num_modes - 1, (*batch, 1), device=self.device, dtype=torch.int64
                ),
            },
            shape=batch,
        )
        self.action_spec = Bounded(-self.max_delta, self.max_delta, (*batch, 2), **common)
        self.reward_spec = Unbounded((*batch, 1), **common)
        flag = Binary(1, (*batch, 1), device=self.device, dtype=torch.bool)
        self.done_spec = Composite({"done": flag, "terminated": flag.clone()}, shape=batch)

    def _allocate(self) -> None:
        options = {"device": self.device, "dtype": self._dtype}
        self._generator = torch.Generator(self.device)
        self._start = torch.tensor(self._start_position, **options)
        self.pay = self.pay.to(self.device)
        self._desired = self._start.expand(*self.batch_size, 2).clone()
        self._current = self._desired
        self._steps = torch.zeros(*self.batch_size, 1, **options)
        self._alive = torch.ones(*self.batch_size, 1, **options)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self._seed = seed
            self._generator.manual_seed(seed)

    def _draw_start(self) -> Tensor:
        uniform = torch.rand(
            (*self.batch_size, 2), generator=self._generator, device=self.device, dtype=self._dtype
        )
        return self._start + self._start_noise * (2 * uniform - 1)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: object) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is None:
            mask = torch.ones_like(self._alive, dtype=torch.bool)
        mask = mask.view(-1, 1)
        start = self._draw_start()
        self._desired = torch.where(mask, start, self._desired)
        self._current = torch.where(mask, start, self._current)
        self._steps = self._steps.masked_fill(mask, 0)
        self._forget(mask)
        return TensorDict(self._observe(), self.batch_size, device=self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        alive = self._alive
        delta = tensordict.get(ACTION).clamp(-self.max_delta, self.max_delta)
        self._desired = torch.addcmul(self._desired, delta, alive)
        self._current = torch.lerp(self._current, self._desired, alive * self.tracking)
        self._steps = self._steps + alive
        entries = self._observe()
        pay = self.pay[entries[MODE].clamp_min(0)]
        entries[REWARD] = pay * (entries[SUCCESS] * alive)
        return TensorDict(entries, self.batch_size, device=self.device)

    def _observe(self) -> dict[str, Tensor]:
        success, failure, mode = (part.unsqueeze(-1) for part in self.judge(self._current))
        done = success | failure | (self._steps >= self.max_steps)
        self._alive = done.logical_not().to(self._dtype)
        exact = self.tracking == 1
        parts = (self._current,) if exact else (self._desired, self._current)
        return {
            OBSERVATION: torch.cat(parts, -1),
            ELAPSED: self._steps / self.max_steps,
            SUCCESS: success,
            MODE: mode,
            "done": done,
            "terminated": done.clone(),
        }


def _check_options(
    num_envs: int,
    start_noise: float,
    max_delta: float,
    max_steps: int,
    tracking: float,
    pay: Tensor,
) -> None:
    if pay.ndim != 1:
        raise ShapeError(f"pay must have one entry per mode, shape [M], got {tuple(pay.shape)}.")
    if num_envs < 1 or max_steps < 1:
        raise ConfigurationError(
            f"num_envs and max_steps must be at least 1, got {num_envs} and {max_steps}."
        )
    if start_noise < 0 or max_delta <= 0 or not 0 < tracking <= 1:
        raise ConfigurationError(
            "start_noise must be >= 0, max_delta > 0 and tracking in (0, 1], got "
            f"{start_noise}, {max_delta} and {tracking}."
        )
