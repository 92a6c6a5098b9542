"""One decision of an environment whose actions are chunks: its steps, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.transforms._common import any_flag, expand_mask, merge_rows

if TYPE_CHECKING:
    from modereg.transforms.action_chunk import ActionChunk

__all__ = ["Decision"]


class Decision:
    """The environment steps of one decision: what they returned and which rows have ended."""

    def __init__(self, chunk: ActionChunk, root: TensorDictBase, first: TensorDictBase) -> None:
        self.chunk, self.root, self.latest = chunk, root.copy(), first
        self.reward = first.get(chunk.reward_key).clone()  # environments may reuse their buffers
        self.steps = torch.ones(
            (*first.batch_size, 1), dtype=torch.int64, device=self.reward.device
        )
        self.success = chunk._succeeded(root, first)
        self.ended = any_flag(first, chunk._done_keys)  # rows whose latest step was their last
        skipped = root.get("_step", None)
        rest = None if skipped is None else skipped.reshape(first.batch_size).logical_not()
        self.finished = self.ended.clone() if rest is None else self.ended | rest
        self.early = torch.zeros_like(self.finished)  # finished before the latest step
        self._each = [self.reward]
        self._count()

    def _count(self) -> None:
        finished = int(self.finished.sum())
        self.any_finished, self.over = finished > 0, finished == self.finished.numel()

    def play(self, actions: Tensor, index: int) -> None:
        """Play one further action of ``[*B, execute, A]``, which is changed where it is moved."""
        chunk = self.chunk
        masked = self.any_finished and not chunk._rows_stay
        kept = self.latest.clone() if masked else self.latest
        fresh = self._environment_step(actions, index, masked)
        self.ended, reward = any_flag(fresh, chunk._done_keys), fresh.get(chunk.reward_key)
        self.early = self.finished
        if masked:
            fresh = merge_rows(self.finished, kept, fresh)
            reward = reward.masked_fill(expand_mask(self.finished, reward), 0.0)
        if self.any_finished:
            self.steps = self.steps + self.finished.logical_not().unsqueeze(-1)
        else:
            self.steps = self.steps + 1
        self.finished = self.finished | self.ended
        self.latest = fresh
        self.reward = torch.add(self.reward, reward, alpha=chunk.gamma**index)
        if chunk._moving["rewarded"] is not None:
            self._each.append(reward.clone())
        if self.success is not None:
            self.success = torch.maximum(self.success, fresh.get(chunk.success_key))
        self._count()

    def _environment_step(self, actions: Tensor, index: int, masked: bool) -> TensorDictBase:
        """Step with the root, in which the latest entries stand in the place of its own."""
        steps = self.chunk._steps
        data = self.root.copy() if steps.inner else self.root
        action = self.chunk._moved(data.update(self.latest), actions, index)
        data.set(self.chunk.action_key, action.clone())
        if masked:
            self._leave_out_finished(data)
        return steps(data)

    def _leave_out_finished(self, data: TensorDictBase) -> None:
        if self.chunk._rows is not None:
            self.chunk._rows.before_step(self.ended)
        elif self.chunk._steps.env.batch_locked:
            alive = self.finished.logical_not()
            if alive.ndim > 1:  # workers are stepped as a whole
                alive = alive.flatten(1).any(1).view(-1, *[1] * (alive.ndim - 1)).expand_as(alive)
            data.set("_step", alive)

    def settle(self) -> None:
        """Make the rows that ended before the latest step ready for their reset."""
        if self.chunk._moving["rewarded"] is not None:
            self.chunk._moving["rewarded"](torch.cat(self._each, -1))
        if self.chunk._rows is not None and bool(self.early.any()):
            self.chunk._rows.settle(self.early, self.finished)
