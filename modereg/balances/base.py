"""What the balances share: the unit of the task's reward, means of episodes, and the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torch.nn import functional as F

from modereg import keys
from modereg.devices import module_device
from modereg.errors import ConfigurationError
from modereg.reading import in_next, require, require_finite, valid_rows
from modereg.transforms import MIReward

__all__ = ["Balance", "RunningMean"]

UNIT_WINDOW = 1024
"""Episodes over which the size of the returns is taken."""


class RunningMean:
    r"""The mean of about the latest values of each of K.

    :math:`m \leftarrow m + n / N \, (\bar x - m)` as n values with the mean :math:`\bar x` come, N,
    those that came so far, being at most ``window``: the mean of all at first, which forgets
    exponentially later.

    Args:
        number: K.
        window: N at most.
        device: where the means are.

    Attributes:
        mean: ``[K]``, 0 where nothing has come.
        count: N of each, ``[K]``.
    """

    def __init__(
        self, number: int, window: float, device: torch.device | str | None = None
    ) -> None:
        self.window = window
        self.mean = torch.zeros(number, device=device)
        self.count = torch.zeros(number, device=device)

    def add(self, places: Tensor, values: Tensor) -> Tensor:
        """Take in values ``[n]`` of some places ``[n]``; return how many of each, ``[K]``."""
        chosen = F.one_hot(places, len(self.mean)).to(self.mean)
        number, total = chosen.sum(0), values.to(self.mean) @ chosen
        self.count = (self.count + number).clamp(max=self.window)
        share = (number / self.count.clamp_min(1)).clamp(max=1)
        self.mean = self.mean + share * (total / number.clamp_min(1) - self.mean)
        return number

    def state_dict(self) -> dict[str, Tensor]:
        """Return the means and what they are of."""
        return {"mean": self.mean, "count": self.count}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state of :meth:`state_dict`."""
        self.mean, self.count = (state[name].to(self.mean) for name in ("mean", "count"))


class Balance(ABC):
    r"""Sets the weights of a :class:`~modereg.transforms.MIReward` from the episodes that end.

    With :math:`\lambda_z` the weight that a rule finds, a transition of code z is paid

    .. math::
        (r / u + \lambda_z l) / (1 + \bar\lambda), \quad u = \sqrt{E[R^2]},

    l being the intrinsic reward and R the return of the latest 1024 episodes that ended. So the
    weights are in the units of a return, whatever a task pays: rewards ten times as large give the
    same ``regularized_reward``. And its size does not change with the weights, whose mean is
    :math:`\bar\lambda`, so that a critic need not follow them. As long as every return was 0, u is
    taken from the episodes under way, and it is 1 where they were paid nothing either.

    Each rule is a subclass. :meth:`update` comes before a batch is paid::

        env.append_transform(RewardSum(["reward"], ["episode_reward"]))
        balance = BoundConfig().make(mi_reward)
        for batch in collector:
            balance.update(batch)
            batch = mi_reward(batch)

    What was stored in a replay buffer is paid by the newest weights, since the transform reads its
    buffers when it is called.

    Args:
        mi_reward: pays; its ``coef`` and ``unit`` are set here, to
            :math:`\lambda / (1 + \bar\lambda)` and :math:`u (1 + \bar\lambda)`.
        coef: the weight at the start.
        codes: K, for a weight of each code; None for one of all.
        return_key: entry of the rewards of the episode so far.
        success_key: entry of success, read where there is one.

    Attributes:
        coef: lambda, a scalar or ``[K]``.
        size: u.
    """

    def __init__(
        self,
        mi_reward: MIReward,
        coef: float,
        codes: int | None = None,
        *,
        return_key: NestedKey = keys.EPISODE_REWARD,
        success_key: NestedKey = keys.SUCCESS,
    ) -> None:
        self.mi_reward = mi_reward
        self.return_key, self.success_key = return_key, success_key
        self.device = module_device(mi_reward.estimator)
        self.squares = RunningMean(1, UNIT_WINDOW, self.device)
        shape = () if codes is None else (codes,)
        self.coef = torch.full(shape, float(coef), device=self.device)
        self.size = 1.0
        self._write()

    @torch.no_grad()
    def update(self, batch: TensorDictBase) -> dict[str, float]:
        """Learn from the episodes that end in a batch, and set unit and weights.

        Args:
            batch: transitions ``[*B]``, with the return so far in ``next``.

        Returns:
            ``return_scale``, u, and ``coef``, the weight; of several the mean, and the least and
            the largest as ``coef_min`` and ``coef_max``.

        Raises:
            KeyMismatchError: if the return, the code or a feature is missing.
            NonFiniteError: if a return is not finite.
        """
        returned = in_next(self.return_key)
        require(batch, returned, f"{type(self).__name__} (RewardSum writes it)")
        valid = valid_rows(batch)
        data = batch.select(*self.reads, strict=False)
        data = data.reshape(-1) if valid is None else data[valid]
        require_finite(data, [returned], type(self).__name__)
        ended = data[data.get(("next", "done")).squeeze(-1)].to(self.device)
        self.size = self._size(ended.get(returned).squeeze(-1), data.get(returned))
        self.coef = self.weights(data, ended).to(self.coef)
        self._write()
        return self._figures()

    @property
    def reads(self) -> list[NestedKey]:
        """Entries of transitions that are read."""
        after = ["done", self.return_key, self.success_key]
        return list(dict.fromkeys([*self.mi_reward.reads, *map(in_next, after)]))

    @abstractmethod
    def weights(self, data: TensorDictBase, ended: TensorDictBase) -> Tensor:
        """Learn from a batch, and return the weights, a scalar or ``[K]``.

        Args:
            data: its transitions, ``[n]``.
            ended: those of them that ended an episode, ``[m]``, on :attr:`device`.
        """

    def _size(self, returns: Tensor, so_far: Tensor) -> float:
        """Return u by the returns of episodes that ended, ``[m]``, or else by those so far."""
        self.squares.add(torch.zeros_like(returns, dtype=torch.int64), returns.square())
        size = self.squares.mean[0].sqrt()
        if not size > 0:
            size = so_far.square().mean().sqrt()
        return float(size) if size > 0 else 1.0

    def _write(self) -> None:
        total = 1.0 + self.coef.mean()
        self.mi_reward.unit.fill_(self.size * float(total))
        self.mi_reward.coef = self.coef / total

    def _figures(self) -> dict[str, float]:
        coef = self.coef
        found = {"coef": coef.mean()}
        if coef.ndim:
            found |= {"coef_min": coef.min(), "coef_max": coef.max()}
        figures = {name: round(float(value), 7) for name, value in found.items()}  # of float32
        return {"return_scale": self.size} | figures

    def state_dict(self) -> dict[str, Any]:
        """Return what changes between batches."""
        return {
            "squares": self.squares.state_dict(),
            "size": self.size,
            "coef": self.coef,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`.

        Raises:
            ConfigurationError: if it is of a balance with other weights.
        """
        if state["coef"].shape != self.coef.shape:
            raise ConfigurationError(
                f"expected the state of a balance with weights of shape {tuple(self.coef.shape)}, "
                f"got {tuple(state['coef'].shape)}; give the options of the run that it is of"
            )
        self.squares.load_state_dict(state["squares"])
        self.size, self.coef = state["size"], state["coef"].to(self.coef)
        self._write()
