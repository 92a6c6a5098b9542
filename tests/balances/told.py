"""A discoverer that is told what it reads, and transitions with known returns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from modereg import keys
from modereg.estimators import RewardEstimator
from modereg.priors import CategoricalPrior, Prior
from modereg.transforms import MIReward

__all__ = ["Told", "pays", "transitions"]


class Told(RewardEstimator):
    """Its ratio stands in the data, in units of H(p)."""

    is_lower_bound = True

    def __init__(self, prior: int | Prior = 2, limit: float | None = None) -> None:
        prior = CategoricalPrior(prior) if isinstance(prior, int) else prior
        super().__init__(prior, ["told"])
        self.limit = self.scale if limit is None else limit

    @property
    def upper_limit(self) -> float:
        return self.limit

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return tensordict["told"][..., 0] * self.scale

    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        return -self.log_ratio(tensordict)


def pays(prior: int | Prior = 2, **options: float) -> MIReward:
    return MIReward(Told(prior, **options), timing="dense", gamma=1.0)


def transitions(
    returns: Sequence[float],
    codes: Sequence[int] | None = None,
    *,
    done: Sequence[bool] | None = None,
    success: Sequence[bool] | None = None,
    told: Sequence[float] | None = None,
    steps: int = 1,
) -> TensorDict:
    """Return transitions ``[n]`` whose rewards are the returns, of episodes that end by default."""
    number = len(returns)
    reward = torch.tensor(returns).unsqueeze(-1)
    ended = [True] * number if done is None else done
    after = {
        keys.REWARD: reward,
        keys.EPISODE_REWARD: reward.clone(),
        keys.STEPS: torch.full((number, 1), steps),
        "done": torch.tensor(ended).unsqueeze(-1),
        "told": torch.tensor([0.0] * number if told is None else told).unsqueeze(-1),
    }
    if success is not None:
        after[keys.SUCCESS] = torch.tensor(success).unsqueeze(-1)
    code = torch.tensor([0] * number if codes is None else codes)
    return TensorDict({keys.LATENT: code, "next": after}, [number], names=None)
