"""The rules by which the intrinsic reward is weighed."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.balances.base import Balance, RunningMean
from modereg.balances.config import (
    BoundConfig,
    ConstantConfig,
    GateConfig,
    MultiplierConfig,
    ScheduleConfig,
)
from modereg.errors import ConfigurationError
from modereg.reading import in_next, require
from modereg.transforms import MIReward

__all__ = [
    "BoundBalance",
    "ConstantBalance",
    "GateBalance",
    "MultiplierBalance",
    "ScheduleBalance",
]

FIRST_SHARE, LARGEST_LOGIT = 0.3, 5.0
"""Share of the largest weight at which MultiplierBalance begins, and the size of its logits."""


class ConstantBalance(Balance):
    """One weight all along, in units of the task's returns.

    Args:
        mi_reward: pays.
        config: options.
        **read: entries, as :class:`~modereg.balances.base.Balance` takes them.
    """

    def __init__(self, mi_reward: MIReward, config: ConstantConfig, **read: Any) -> None:
        super().__init__(mi_reward, config.coef, **read)

    def weights(self, data: TensorDictBase, ended: TensorDictBase) -> Tensor:
        """Return the weight, as it is."""
        return self.coef


class ScheduleBalance(Balance):
    """From one weight to another, linearly in the environment steps that were collected.

    A batch is paid by what was collected before it, so the first by ``start``.

    Args:
        mi_reward: pays.
        config: options.
        env_steps: environment steps at which the end is reached.
        **read: entries, as :class:`~modereg.balances.base.Balance` takes them.
    """

    def __init__(
        self, mi_reward: MIReward, config: ScheduleConfig, env_steps: float, **read: Any
    ) -> None:
        super().__init__(mi_reward, config.start, **read)
        self.config, self.env_steps, self.seen = config, env_steps, 0

    def weights(self, data: TensorDictBase, ended: TensorDictBase) -> Tensor:
        """Return the weight at the environment steps so far."""
        progress = min(self.seen / max(self.env_steps, 1), 1.0)
        steps = data.get(in_next(self.mi_reward.steps_key), None)
        self.seen += len(data) if steps is None else int(steps.sum())
        coef = self.config.start + progress * (self.config.end - self.config.start)
        return torch.full_like(self.coef, coef)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes between batches."""
        return super().state_dict() | {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        super().load_state_dict(state)
        self.seen = state["seen"]


class _OfCodes(Balance):
    """A balance with a weight for each code, by the mean of something over its latest episodes."""

    def __init__(self, mi_reward: MIReward, coef: float, window: int, **read: Any) -> None:
        prior = mi_reward.estimator.prior
        if prior.num_codes is None:
            raise ConfigurationError(
                f"expected discrete codes, each of which {type(self).__name__} weighs, got "
                f"{prior!r}; choose ConstantConfig or ScheduleConfig"
            )
        super().__init__(mi_reward, coef, prior.num_codes, **read)
        self.seen = RunningMean(prior.num_codes, window, self.device)

    def weights(self, data: TensorDictBase, ended: TensorDictBase) -> Tensor:
        """Take in the episodes that ended, and return the weights ``[K]``."""
        codes = require(ended, self.mi_reward.latent_key, type(self).__name__)
        return self.weigh(codes, self.values(ended))

    @abstractmethod
    def values(self, ended: TensorDictBase) -> Tensor:
        """Return what each episode gives, ``[m]``."""

    @abstractmethod
    def weigh(self, codes: Tensor, values: Tensor) -> Tensor:
        """Learn from episodes, ``[m]`` each, and return the weights ``[K]``."""

    def state_dict(self) -> dict[str, Any]:
        """Return what changes between batches."""
        return super().state_dict() | {"seen": self.seen.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        super().load_state_dict(state)
        self.seen.load_state_dict(state["seen"])


class _ByAchievement(_OfCodes):
    """A balance by what each code achieves beside a reference."""

    config: GateConfig | MultiplierConfig

    def values(self, ended: TensorDictBase) -> Tensor:
        """Return success, or the returns, of episodes, ``[m]``."""
        success, figure = in_next(self.success_key), self.config.figure
        if figure == "return" or (figure is None and ended.get(success, None) is None):
            return ended.get(in_next(self.return_key)).squeeze(-1)
        return require(ended, success, type(self).__name__).squeeze(-1)

    def margin(self) -> Tensor:
        r"""Return :math:`(R_z - R^* + (1 - \alpha) |R^*|) / |R^*|`, ``[K]``.

        0 for codes of which no episode has ended, and for all where the reference is 0.
        """
        known, achieved = self.seen.count > 0, self.seen.mean
        if not bool(known.any()):
            return torch.zeros_like(achieved)
        best, given = achieved[known].max(), self.config.reference
        reference = best if given is None else torch.full_like(best, given)
        size = reference.abs()
        above = (achieved - reference) / size.clamp_min(1e-12) + 1 - self.config.share
        return torch.where(known & (size > 0), above, 0.0)


class GateBalance(_ByAchievement):
    r"""Pays the codes that achieve about the reference (SMERL, arXiv 2010.14484, Eq. 5).

    :math:`\lambda_z = c \, 1[R_z \ge R^* - (1 - \alpha) |R^*|]`, :math:`R_z` being the mean of the
    latest episodes of code z, in the place of the return of its policy, and c ``coef``, alpha
    ``share``. A code of which no episode has ended is paid.

    Args:
        mi_reward: pays.
        config: options.
        **read: entries, as :class:`~modereg.balances.base.Balance` takes them.

    Raises:
        ConfigurationError: if codes are continuous.
    """

    def __init__(self, mi_reward: MIReward, config: GateConfig, **read: Any) -> None:
        super().__init__(mi_reward, config.coef, config.window, **read)
        self.config = config

    def weigh(self, codes: Tensor, values: Tensor) -> Tensor:
        """Return c for codes at the reference, and 0 for the others, ``[K]``."""
        self.seen.add(codes, values)
        return self.config.coef * (self.margin() >= 0)


class MultiplierBalance(_ByAchievement):
    r"""A multiplier for each code holds what it achieves (DOMiNO, arXiv 2205.13521, Sec. 3).

    :math:`\lambda_z = c \, (1 - \sigma(\mu_z))`, and each episode of code z moves its logit,

    .. math::
        \mu_z \leftarrow \mu_z - \eta \, (R_z - R^* + (1 - \alpha) |R^*|) / |R^*|,
        \quad |\mu_z| \le 5,

    which is the paper's gradient without the factor :math:`\sigma'(\mu_z)`, so that a multiplier
    comes back from its end as fast as it got there. The task's reward keeps the weight 1, where the
    paper has :math:`\sigma(\mu_z)`. c is ``coef``, eta ``rate``, alpha ``share``.

    Args:
        mi_reward: pays.
        config: options.
        **read: entries, as :class:`~modereg.balances.base.Balance` takes them.

    Raises:
        ConfigurationError: if codes are continuous.
    """

    config: MultiplierConfig

    def __init__(self, mi_reward: MIReward, config: MultiplierConfig, **read: Any) -> None:
        super().__init__(mi_reward, FIRST_SHARE * config.coef, config.window, **read)
        self.config = config
        self.logits = torch.full_like(self.seen.mean, math.log(1 / FIRST_SHARE - 1))

    def weigh(self, codes: Tensor, values: Tensor) -> Tensor:
        """Move the logits, and return the weights, ``[K]``."""
        number = self.seen.add(codes, values)
        step = self.config.rate * number * self.margin()
        self.logits = (self.logits - step).clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
        return self.config.coef * torch.sigmoid(-self.logits)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes between batches."""
        return super().state_dict() | {"logits": self.logits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        super().load_state_dict(state)
        self.logits = state["logits"].to(self.logits)


class BoundBalance(Balance):
    r"""A Lagrange multiplier on what q reads of the codes at the end of episodes.

    The return is maximised under :math:`I \ge \alpha I^0`, where
    :math:`I = E[\log q(z|s) - \log p(z)] / H(p)`, clamped as it is paid, bounds the mutual
    information from below (BMD, arXiv 2605.11387, Eq. 2). Each episode moves the multiplier,

    .. math::
        \log \lambda \leftarrow \log \lambda + \eta \, (\alpha I^0 - I) / I^0,

    within ``limits``: dual ascent in the logarithm, as soft actor-critic learns its temperature
    (arXiv 1812.05905, Sec. 5). :math:`I^0` is what was read of the first ``window`` episodes, or 1
    with ``reference="prior"``; where that is not above 0, the multiplier stays. eta is ``rate``,
    alpha ``share``. It is one for all codes: with one for each, those that fade would drown the
    rewards of the others in a policy that they share.

    Args:
        mi_reward: pays.
        config: options; without ``reference`` that is ``start``.
        **read: entries, as :class:`~modereg.balances.base.Balance` takes them.

    Raises:
        ConfigurationError: if ``reference="prior"`` with an estimator whose ratio has no upper
            limit.
    """

    def __init__(self, mi_reward: MIReward, config: BoundConfig, **read: Any) -> None:
        super().__init__(mi_reward, config.coef, **read)
        if config.reference == "prior" and not math.isfinite(mi_reward.estimator.upper_limit):
            raise ConfigurationError(
                "expected reference='start' with an estimator whose ratio has no upper limit, got "
                f"'prior' with {type(mi_reward.estimator).__name__}"
            )
        self.config = config
        self.seen = RunningMean(1, config.window, self.device)
        self.first = RunningMean(1, math.inf, self.device)

    def weights(self, data: TensorDictBase, ended: TensorDictBase) -> Tensor:
        """Take in what was read of the episodes that ended, and return the multiplier."""
        values = self.mi_reward.ratio(ended)
        alike = torch.zeros_like(values, dtype=torch.int64)
        self.seen.add(alike, values)
        if float(self.first.count) < self.config.window:
            self.first.add(alike, values)
        prior = self.config.reference == "prior"
        wanted = torch.ones_like(self.first.mean) if prior else self.first.mean
        lacking = self.config.share - self.seen.mean / wanted
        step = torch.where(wanted > 0, self.config.rate * len(values) * lacking, 0.0).squeeze(0)
        return (self.coef.log() + step).exp().clamp(*self.config.limits)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes between batches."""
        means = {"seen": self.seen.state_dict(), "first": self.first.state_dict()}
        return super().state_dict() | means

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        super().load_state_dict(state)
        self.seen.load_state_dict(state["seen"])
        self.first.load_state_dict(state["first"])
