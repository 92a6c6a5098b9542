"""The environment steps of one decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from modereg._torchrl import inner_transforms, single_step
from modereg.transforms._common import any_flag, expand_mask, merge_rows

if TYPE_CHECKING:
    from modereg.transforms.action_chunk import ActionChunk

__all__ = ["Decision"]


class Decision:
    """The environment steps of one decision: what they returned and which rows have ended.

    Args:
        chunk: the transform.
        root: input of the decision, after the inverse transforms.
        first: what the first step returned.
    """

    def __init__(self, chunk: ActionChunk, root: TensorDictBase, first: TensorDictBase) -> None:
        self.chunk, self.root, self.latest = chunk, root.copy(), first
        self.inner, env = inner_transforms(chunk)
        self.env = cast("EnvBase", env)
        self.reward = first.get(chunk.reward_key)
        self.steps = torch.ones(
            (*first.batch_size, 1), dtype=torch.int64, device=self.reward.device
        )
        self.ended = any_flag(first, chunk._done_keys)  # rows whose latest step was their last
        skipped = root.get("_step", None)
        rest = None if skipped is None else skipped.reshape(first.batch_size).logical_not()
        self.finished = self.ended if rest is None else self.ended | rest
        self.early = torch.zeros_like(self.finished)  # finished before the latest step
        self.any_finished, self.over = self._look()

    def _look(self) -> tuple[bool, bool]:
        return bool(self.finished.any()), bool(self.finished.all())

    def play(self, action: Tensor, discount: float) -> None:
        """Play one further action ``[*B, A]``."""
        keys_done, reward_key = self.chunk._done_keys, self.chunk.reward_key
        fresh = self._environment_step(action)
        self.ended, reward = any_flag(fresh, keys_done), fresh.get(reward_key)
        self.early = self.finished
        if self.any_finished:
            if not self.chunk._rows_stay:
                fresh = merge_rows(self.finished, self.latest, fresh)
                reward = reward.masked_fill(expand_mask(self.finished, reward), 0.0)
            self.steps = self.steps + self.finished.logical_not().unsqueeze(-1)
            self.finished = self.finished | self.ended
        else:
            self.steps, self.finished = self.steps + 1, self.ended
        self.latest, self.reward = fresh, self.reward + discount * reward
        self.any_finished, self.over = self._look()

    def _environment_step(self, action: Tensor) -> TensorDictBase:
        data = self._input().set(self.chunk.action_key, action)
        if self.any_finished and not self.chunk._rows_stay:
            self._leave_out_finished(data)
        return single_step(self.env, self.inner, data)

    def _input(self) -> TensorDictBase:
        """Return what the next step reads: the root with the latest state in place of its own."""
        if self.inner:
            return self.root.copy().update(self.latest)
        for key in self.chunk._state_keys:
            self.root.set(key, self.latest.get(key, self.root.get(key)))
        return self.root

    def _leave_out_finished(self, data: TensorDictBase) -> None:
        if self.chunk._rows is not None:
            self.chunk._rows.before_step(self.ended)
        elif self.env.batch_locked:
            alive = self.finished.logical_not()
            if alive.ndim > 1:  # workers are stepped as a whole
                alive = alive.flatten(1).any(1).view(-1, *[1] * (alive.ndim - 1)).expand_as(alive)
            data.set("_step", alive)

    def settle(self) -> None:
        """Make the rows that ended before the latest step ready for their reset."""
        if self.chunk._rows is not None and bool(self.early.any()):
            self.chunk._rows.settle(self.early, self.finished)
