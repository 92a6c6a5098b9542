from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.estimators import CategoricalMI, NetworkEstimator
from modereg.networks import MLP, InputNoise
from modereg.priors import NormalPrior
from modereg.recipes.build import set_up
from modereg.recipes.loop import Stage, judge_stage, learn
from modereg.recipes.variational import make_stage
from modereg.wrapping import make_steering, observation_size
from tests.recipes.conftest import TASK, discover_config

CODES = 3


class _Nearness(NetworkEstimator):
    """Pays for a feature near the code, which is continuous."""

    upper_limit = math.inf

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return -(self.output(tensordict) - tensordict.get(self.latent_key)).square().sum(-1)

    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        return -self.log_ratio(tensordict)


def _stage(base: str, **parts: Any) -> Stage:
    config = discover_config(base, parts.pop("out", "unused"), num_codes=CODES)
    return make_stage(config, set_up(TASK, base), **parts)


def _weights(module: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def _iterate(stage: Stage) -> tuple[TensorDictBase, dict[str, float]]:
    batch = stage.learner.collect(0, 0)
    return batch, learn(stage, batch)


def test_by_default_a_classifier_learns_beside_a_policy_that_begins_at_the_base(base: str) -> None:
    stage = _stage(base)
    batch = stage.learner.collect(0, 0)
    assert batch.get("loc").abs().max() == 0.0
    assert (batch.get("scale") == 1.0).all()
    assert isinstance(stage.estimator, CategoricalMI)
    assert stage.prior.num_codes == CODES

    before = [_weights(module) for module in (stage.steering, stage.estimator)]
    figures = learn(stage, batch)
    after = [_weights(module) for module in (stage.steering, stage.estimator)]
    assert all(not torch.equal(*pair) for pair in zip(before, after))
    assert {"reward", "mi_reward", "q_loss", "q_bound", "loss_objective"} <= set(figures)


def test_what_is_maximised_is_the_reward_of_the_estimator_that_was_given(base: str) -> None:
    size = observation_size(set_up(TASK, base).steered(1, 1.0), [keys.HISTORY])
    estimator = CategoricalMI(size, CODES + 2)
    stage = _stage(base, estimator=estimator)
    assert stage.estimator is estimator
    assert stage.online is not None
    assert stage.online.estimator is estimator
    assert stage.prior.num_codes == CODES + 2
    assert stage.learner.advantage.tensor_keys.reward == keys.MI_REWARD

    batch, _ = _iterate(stage)
    assert stage.mi_reward is not None
    paid, ended = stage.mi_reward(batch), batch.get(("next", "done")).squeeze(-1)
    last = paid.get("next")[ended].select(keys.HISTORY)
    ratio = estimator.log_ratio(last.set(keys.LATENT, paid.get(keys.LATENT)[ended]))
    gamma, steps = 0.999, paid.get(("next", keys.STEPS))[ended].squeeze(-1)
    limit = math.log(CODES + 2)
    expected = gamma**steps * ratio.detach().clamp(-limit, limit) / limit
    torch.testing.assert_close(paid.get(("next", keys.MI_REWARD))[ended].squeeze(-1), expected)
    assert (paid.get(("next", keys.MI_REWARD))[~ended] == 0).all()


def test_it_begins_with_the_steering_policy_that_was_given(base: str) -> None:
    setup = set_up(TASK, base)
    env = setup.steered(CODES, 1.0)
    steering = make_steering(env, setup.base, CODES, setup.steering_keys)
    steering.set_std(0.5)
    features = steering.head.network.features
    features.fit(torch.randn(50, len(features.shift)) * 3)
    shift = features.shift.clone()
    stage = _stage(base, steering=steering)
    assert stage.steering is steering
    assert torch.equal(features.shift, shift)
    assert torch.equal(stage.learner.critic.module.features.shift, shift)
    assert stage.start_steps < _stage(base).start_steps  # no episodes to scale its input

    before = _weights(steering)
    _, figures = _iterate(stage)
    assert not torch.equal(_weights(steering), before)
    assert math.isfinite(figures["loss_objective"])


def test_continuous_codes_are_learned_and_their_judgement_is_refused(base: str) -> None:
    size = observation_size(set_up(TASK, base).steered(1, 1.0), [keys.HISTORY])
    estimator = _Nearness(InputNoise(MLP(size, 2, (16,))), 2, NormalPrior(2))
    stage = _stage(base, estimator=estimator)
    before = _weights(estimator)
    batch, figures = _iterate(stage)
    assert batch.get(keys.LATENT_FEATURES).shape == (*batch.shape, 2)
    assert not torch.equal(_weights(estimator), before)
    assert math.isfinite(figures["q_bound"])
    with pytest.raises(ConfigurationError, match="expected discrete codes, each of which"):
        judge_stage(set_up(TASK, base), stage, 64, 0)
