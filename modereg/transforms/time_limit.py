"""A time limit in environment steps."""

from __future__ import annotations

from typing import Literal

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Composite
from torchrl.envs import EnvBase, Transform

from modereg import keys
from modereg._torchrl import inner_transforms
from modereg.errors import ConfigurationError
from modereg.transforms._attaching import check_attached
from modereg.transforms._common import require
from modereg.transforms._vector_gym import resets_itself

__all__ = ["TimeLimit"]


class TimeLimit(Transform):
    """Ends episodes after ``max_steps`` environment steps.

    Put it inside of :class:`~modereg.transforms.ActionChunk`, where a step is one of the
    environment. The elapsed share is written at the root and in ``next``, as an episode that is
    cut by the clock is Markov only with the clock in view.

    Args:
        max_steps: environment steps of an episode.
        mode: ``"terminates"``: the limit is part of the task, its end is terminal; ``"truncates"``:
            value estimators bootstrap there. A step that terminates on its own is not truncated.
        elapsed_key: entry of the elapsed share, ``[*B, 1]`` float in [0, 1].
        dtype: floating-point type of the elapsed share.

    Raises:
        ConfigurationError: if ``max_steps`` is not positive, the mode is unknown, the environment
            has ``elapsed_key`` already, it is a vector environment that resets itself, or this is
            attached outside of ActionChunk.
    """

    def __init__(
        self,
        max_steps: int,
        mode: Literal["terminates", "truncates"],
        *,
        elapsed_key: NestedKey = keys.ELAPSED,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if max_steps < 1:
            raise ConfigurationError(f"expected at least one step, got max_steps={max_steps}")
        if mode not in ("terminates", "truncates"):
            raise ConfigurationError(f"expected 'terminates' or 'truncates', got {mode!r}")
        self.max_steps, self.mode = max_steps, mode
        self.elapsed_key, self.dtype = elapsed_key, dtype

    def set_container(self, container: Transform | EnvBase) -> None:
        """Attach the transform and check the environment."""
        super().set_container(container)
        if self.parent is None:
            return
        check_attached(self, {"elapsed_key": self.elapsed_key})
        inner, env = inner_transforms(self)
        if resets_itself(env, inner):
            raise ConfigurationError(
                "expected an environment whose rows can be reset when the limit is reached, got a "
                "Gymnasium vector environment that resets itself; wrap its environments in "
                "gymnasium.wrappers.TimeLimit, or use AutoresetMode.DISABLED"
            )

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        done = require(tensordict_reset, "done", repr(self))
        if self.mode == "truncates":
            tensordict_reset.set("truncated", torch.zeros_like(done))
        return tensordict_reset.set(self.elapsed_key, torch.zeros_like(done, dtype=self.dtype))

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        share = require(tensordict, self.elapsed_key, repr(self))
        steps = (share * self.max_steps).round() + 1
        limit = steps >= self.max_steps
        self._end(next_tensordict, limit)
        return next_tensordict.set(self.elapsed_key, (steps / self.max_steps).clamp_max(1.0))

    def _end(self, tensordict: TensorDictBase, limit: Tensor) -> None:
        done = require(tensordict, "done", repr(self))
        terminated = tensordict.get("terminated")
        if self.mode == "terminates":
            tensordict.set("terminated", terminated | limit)
        else:
            truncated = tensordict.get("truncated", torch.zeros_like(done))
            tensordict.set("truncated", truncated | (limit & ~terminated))
        tensordict.set("done", done | limit)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the tensordict as it is: in a replay buffer the share is data."""
        return tensordict

    def _add_elapsed(self, spec: Composite) -> Composite:
        spec[self.elapsed_key] = Bounded(
            0.0, 1.0, shape=(*spec.shape, 1), dtype=self.dtype, device=spec.device
        )
        return spec

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Add the elapsed share."""
        return self._add_elapsed(observation_spec)

    def transform_state_spec(self, state_spec: Composite) -> Composite:
        """Add the elapsed share, from which the steps so far are read."""
        return self._add_elapsed(state_spec)

    def transform_done_spec(self, done_spec: Composite) -> Composite:
        """Add ``truncated``, if the limit truncates."""
        if self.mode == "truncates" and "truncated" not in done_spec.keys(True, True):
            done_spec["truncated"] = Binary(
                1, shape=(*done_spec.shape, 1), dtype=torch.bool, device=done_spec.device
            )
        return done_spec

    def __repr__(self) -> str:
        """Name the limit and what it does."""
        return f"TimeLimit({self.max_steps}, {self.mode!r})"
