"""The learned prior: live, detached, shared, and right about a channel's capacity."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import nn

from modereg.discovery import VariationalModeDiscoverer
from modereg.errors import ConfigurationError
from modereg.estimators import CategoricalMI
from modereg.networks import MLP
from modereg.priors import CategoricalPrior, LearnedPrior
from modereg.transforms import MIReward

CODES = 4


@given(st.lists(st.floats(-4.0, 4.0), min_size=1, max_size=6))
def test_it_is_the_categorical_prior_of_its_probabilities(values: list[float]) -> None:
    prior = LearnedPrior(torch.tensor(values))
    fixed = CategoricalPrior(torch.tensor(values).double().softmax(-1))
    codes = torch.arange(len(values))
    assert isinstance(prior, CategoricalPrior)
    assert prior.num_codes == prior.feature_dim == len(values)
    torch.testing.assert_close(prior.probs, fixed.probs)
    torch.testing.assert_close(prior.log_probs, fixed.log_probs)
    torch.testing.assert_close(prior.log_prob(codes), fixed.log_prob(codes))
    assert prior.entropy == pytest.approx(fixed.entropy)
    assert prior.largest_surprise == pytest.approx(fixed.largest_surprise)
    torch.manual_seed(0)
    drawn = prior.sample(torch.Size([30]))
    torch.manual_seed(0)
    assert torch.equal(drawn, fixed.sample(torch.Size([30])))


def test_everything_follows_the_logits_at_once_and_is_detached() -> None:
    prior = LearnedPrior(CODES)
    assert prior.entropy == pytest.approx(math.log(CODES))
    with torch.no_grad():
        prior.logits[0] = 20.0
    assert prior.entropy < 1e-6
    assert prior.largest_surprise == pytest.approx(20.0, abs=1e-5)
    assert float(prior.log_prob(torch.tensor(0))) > -1e-6
    assert bool((prior.sample(torch.Size([50])) == 0).all())
    for value in (prior.probs, prior.log_probs, prior.log_prob(torch.arange(CODES))):
        assert not value.requires_grad


def test_it_learns_the_capacity_of_a_z_channel() -> None:
    error = 0.5  # code 1 is taken for code 0 half of the time
    channel = torch.tensor([[1.0, 0.0], [error, 1 - error]])
    prior = LearnedPrior(2)
    optimizer = torch.optim.Adam(prior.parameters(), 0.03)
    for _ in range(300):
        latent = prior.sample(torch.Size([512]))
        state = torch.multinomial(channel[latent], 1).squeeze(-1)
        joint = prior.probs.float()[:, None] * channel
        posterior = (joint / joint.sum(0))[latent, state]
        loss = prior.loss(latent, posterior.log() - prior.log_prob(latent))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(prior.probs[1]) == pytest.approx(0.4, abs=0.04)  # Cover and Thomas, ex. 7.8
    assert prior.entropy < math.log(2)


def test_codes_that_do_the_same_share_the_probability_of_one() -> None:
    behaviour = torch.tensor([0, 1, 1])
    prior = LearnedPrior(3)
    optimizer = torch.optim.Adam(prior.parameters(), 0.03)
    for _ in range(200):
        latent = prior.sample(torch.Size([512]))
        group = torch.tensor([prior.probs[0], prior.probs[1:].sum()]).float()
        posterior = prior.probs.float()[latent] / group[behaviour[latent]]
        loss = prior.loss(latent, posterior.log() - prior.log_prob(latent))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(prior.probs[0]) == pytest.approx(0.5, abs=0.05)


def estimator(prior: LearnedPrior) -> CategoricalMI:
    return CategoricalMI(MLP(3, CODES, (8,)), prior)


def batch(rows: int = 64) -> TensorDict:
    return TensorDict(
        {"history": torch.randn(rows, 3), "latent": torch.randint(CODES, (rows,))}, [rows]
    )


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_no_loss_of_an_estimator_moves_it(kind: type[torch.optim.Optimizer]) -> None:
    prior = LearnedPrior(torch.randn(CODES))
    q, before = estimator(prior), prior.logits.detach().clone()
    optimizer = kind(q.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (q.loss(batch()) - q.bound(batch())).backward()
        optimizer.step()
    assert prior.logits.grad is None
    assert torch.equal(prior.logits, before)


def test_its_own_loss_moves_it_alone() -> None:
    prior = LearnedPrior(CODES)
    q, td = estimator(prior), batch()
    prior.loss(td["latent"], q.log_ratio(td)).backward()
    assert float(prior.logits.grad.abs().sum()) > 0
    assert all(p.grad is None for p in q.network.parameters())


def test_an_estimator_saves_it_and_reads_it_as_it_stands() -> None:
    prior, td = LearnedPrior(CODES), batch()
    q = estimator(prior)
    first = q.log_ratio(td)
    with torch.no_grad():
        prior.logits.copy_(torch.randn(CODES))
    log_p = prior.log_probs.float()
    torch.testing.assert_close(q.log_ratio(td), first - math.log(CODES) - log_p[td["latent"]])
    assert q.upper_limit == prior.largest_surprise
    assert q.scale == prior.entropy
    again = estimator(LearnedPrior(CODES))
    again.load_state_dict(q.state_dict())
    torch.testing.assert_close(again.prior.probs, prior.probs)
    torch.testing.assert_close(again.log_ratio(td), q.log_ratio(td))


def test_a_discoverer_resumes_bit_for_bit_and_leaves_it() -> None:
    rollout = TensorDict({"latent": torch.randint(CODES, (40, 10))}, [40, 10])
    rollout["next", "history"] = torch.randn(40, 10, 3)
    pair = []
    for _ in range(2):
        prior = LearnedPrior(torch.linspace(-1, 1, CODES))
        pair.append(VariationalModeDiscoverer(estimator(prior), steps=2, batch_size=32))
    first, second = pair
    first.observe(rollout)
    first.prior.loss(torch.tensor([0, 1]), torch.tensor([1.0, -1.0])).backward()
    first.update()
    torch.testing.assert_close(first.prior.logits.detach(), torch.linspace(-1, 1, CODES))
    second.load_state_dict(first.state_dict())
    for discoverer in pair:
        torch.manual_seed(1)
        discoverer.update()
    mine, other = (list(discoverer.parameters()) for discoverer in pair)
    assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))


def test_a_reward_is_of_the_prior_as_it_stands() -> None:
    prior = LearnedPrior(2)
    q = CategoricalMI(nn.Identity(), prior, in_keys=["history"])
    after = {"reward": torch.zeros(1, 1), "history": torch.tensor([[0.0, -1e3]])}
    td = TensorDict({"latent": torch.tensor([0]), "next": TensorDict(after, [1])}, [1])
    reward = MIReward(q, timing="dense", gamma=1.0, normalize=False)
    assert float(reward(td)["next", "mi_reward"]) == pytest.approx(math.log(2))
    with torch.no_grad():
        prior.logits[0] = math.log(3.0)
    assert float(reward(td)["next", "mi_reward"]) == pytest.approx(math.log(4 / 3))
    copied = copy.deepcopy(reward)
    assert copied.estimator.prior is prior
    assert not list(reward.parameters())


def test_what_is_no_prior_is_refused() -> None:
    for logits in (0, -1, torch.zeros(0), torch.zeros(2, 2), torch.tensor([0.0, math.inf])):
        with pytest.raises(ConfigurationError, match="vector of finite logits"):
            LearnedPrior(logits)
    with pytest.raises(ConfigurationError, match="one reward for each code"):
        LearnedPrior(2).loss(torch.zeros(3, dtype=torch.int64), torch.zeros(3, 1))


def test_its_loss_is_where_the_logits_are() -> None:
    prior = LearnedPrior(3).to("meta")
    assert prior.loss(torch.tensor([0, 2]), torch.ones(2)).device.type == "meta"


def test_it_goes_on_from_other_probabilities() -> None:
    prior, probs = LearnedPrior(2), torch.tensor([0.2, 0.8])
    prior.weigh(probs)
    torch.testing.assert_close(prior.probs.float(), probs)
    assert prior.logits.requires_grad
    with pytest.raises(ConfigurationError, match="positive probabilities of 2 codes"):
        prior.weigh(torch.tensor([0.0, 1.0]))
