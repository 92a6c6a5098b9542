"""Returns of several decisions, told when they are sampled, so that each is paid as it is now."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from modereg import keys
from modereg.reading import in_next

__all__ = ["Windows", "folded", "windows_within"]


class Windows:
    """Cuts the decisions of each row of an environment into all windows of n, one after the other.

    The latest n - 1 of each row wait for those that come, as batches go on where the last one
    ended. A window may reach beyond the end of its first decision's episode: :func:`folded` knows.

    Args:
        length: n.
        device: where the decisions are.
    """

    def __init__(self, length: int, device: torch.device | str | None = None) -> None:
        self.length = length
        self._places = torch.arange(length, device=device)
        self._waiting: TensorDictBase | None = None

    def add(self, batch: TensorDictBase) -> TensorDictBase:
        """Take in decisions ``[B, T]`` and return the windows that are whole, ``[m, n]``."""
        if self._waiting is not None:
            batch = torch.cat([self._waiting, batch], 1)
        number = max(batch.shape[1] - self.length + 1, 0)
        self._waiting = batch[:, number:].clone()
        starts = torch.arange(number, device=self._places.device)
        return batch[:, starts[:, None] + self._places].flatten(0, 1)

    def forget(self) -> None:
        """Let go of the decisions that wait, whose episodes do not go on."""
        self._waiting = None


def windows_within(decisions: Tensor, length: int) -> Tensor:
    """Return the windows of whole episodes, one after the other, as places ``[m, n]`` of decisions.

    The last decision of an episode is repeated, which :func:`folded` does not count.

    Args:
        decisions: of each episode, ``[N]``; m of them in all.
        length: n.
    """
    last = (decisions.cumsum(0) - 1).repeat_interleave(decisions)
    places = torch.arange(length, device=last.device)
    return (torch.arange(len(last), device=last.device)[:, None] + places).minimum(last[:, None])


def folded(
    windows: TensorDictBase,
    reward_key: NestedKey,
    gamma: float,
    steps_key: NestedKey = keys.STEPS,
    played: Sequence[NestedKey] = (keys.CHUNK, keys.NOISE, keys.EXECUTED, keys.PLAYED),
) -> TensorDictBase:
    r"""Return a transition over n decisions of each window, fewer where the episode ends before.

    Its reward is :math:`\sum_k \gamma^{c_k} r_k`, :math:`c_k` being the environment steps before
    decision k, and what it leads to is what the last one led to, with the environment steps of all:
    a loss that discounts by these bootstraps with :math:`\gamma^{c_n}`, after an episode that ran
    out of time too, and not after one that terminated. Nothing corrects for what the policy would
    do otherwise by now (as in ResFiT, arXiv 2509.19301, whose n is 3).

    Args:
        windows: decisions ``[m, n]``, one after the other.
        reward_key: entry of ``next`` that is summed.
        gamma: discount of one environment step.
        steps_key: entry of ``next`` with the environment steps of a decision.
        played: entries of ``next`` that say what was done, which is what the first decision did.

    Returns:
        ``[m]``, with the root of the first decision.
    """
    after = windows.get("next")
    done = after.get("done").squeeze(-1).long()
    alive = done.cumsum(1) - done == 0  # of the episode of the first decision
    reward = after.get(reward_key).squeeze(-1)
    steps = after.get(steps_key).squeeze(-1) * alive
    before = (steps.cumsum(1) - steps).to(reward.dtype)
    total = (gamma**before * reward).where(alive, 0.0).sum(1, keepdim=True)
    last = alive.sum(1) - 1
    out = windows[:, 0].exclude("next")
    out.set("next", after[torch.arange(len(last), device=last.device), last])
    for key in played:
        if key in after.keys(True):
            out.set(in_next(key), after[:, 0].get(key))
    out.set(in_next(reward_key), total)
    return out.set(in_next(steps_key), steps.sum(1, keepdim=True))
