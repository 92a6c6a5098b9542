"""What an estimator of one's own takes over from the interface."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from modereg.estimators import RewardEstimator
from modereg.priors import CategoricalPrior, LearnedPrior, NormalPrior, Prior, SphericalPrior
from modereg.transforms import MIReward


class OneNat(RewardEstimator):
    """Pays one nat for everything."""

    is_lower_bound = False
    upper_limit = 1.0

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior, ["history"])

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return torch.ones(tensordict.batch_size)

    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        return -self.log_ratio(tensordict)


@pytest.mark.parametrize(
    ("prior", "paid"),
    [
        (CategoricalPrior(4), 1 / math.log(4)),
        (LearnedPrior(3), 1 / math.log(3)),
        (CategoricalPrior(1), 0.0),
        (NormalPrior(2), 1.0),
        (SphericalPrior(3), 1.0),
        (SphericalPrior(24), 1.0),  # the entropy of its density is negative
    ],
    ids=repr,
)
def test_the_reward_is_in_units_of_the_codes_entropy_and_of_no_density_s(
    prior: Prior, paid: float
) -> None:
    step = {"history": torch.zeros(5, 2), "reward": torch.zeros(5, 1)}
    td = TensorDict({"latent": prior.sample(torch.Size([5])), "next": step}, [5])
    out = MIReward(OneNat(prior), timing="dense", gamma=1.0)(td)["next", "mi_reward"]
    torch.testing.assert_close(out, torch.full((5, 1), paid))
