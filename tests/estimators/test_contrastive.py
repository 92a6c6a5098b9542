"""The contrastive estimator: its limit, what it is compared with, what it learns."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Independent, Normal

from modereg import functional
from modereg.discovery import VariationalModeDiscoverer
from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.estimators import ContrastiveMI
from modereg.networks import MLP, InputNoise
from modereg.priors import CategoricalPrior, LearnedPrior, NormalPrior, Prior, SphericalPrior
from modereg.testing.estimators import check_estimator
from modereg.transforms import MIReward

CODES, FEATURES = 4, 6
SKEWED = CategoricalPrior(torch.tensor([0.5, 0.2, 0.3, 0.0]))
PRIORS = [CategoricalPrior(CODES), SKEWED, NormalPrior(2), SphericalPrior(3)]
SEEDS = st.integers(0, 10_000)


def estimator(prior: Prior | int = CODES, noise: float = 0.0, **options: object) -> ContrastiveMI:
    given_options = {"num_samples": 32} | options
    return ContrastiveMI(InputNoise(MLP(FEATURES, 32, (16,)), noise), prior, **given_options)


def data(
    prior: Prior, size: tuple[int, ...] = (32,), dtype: torch.dtype = torch.float32
) -> TensorDict:
    latent = prior.sample(torch.Size(size))
    history = torch.randn(*size, FEATURES, dtype=dtype)
    return TensorDict({"history": history, "latent": latent}, size)


@pytest.mark.parametrize("size", [(32,), (3, 5), (), (0,), (0, 2)])
@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_shapes_and_dtypes(prior: Prior, size: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.float64):
        q, td = estimator(prior).to(dtype), data(prior, size, dtype)
        before = set(td.keys())
        for value in (q.log_ratio(td), q.sample_loss(td)):
            assert value.shape == size
            assert value.dtype == dtype
        assert q.loss(td).shape == q.bound(td).shape == ()
        codes = prior.sample(torch.Size([9]))
        assert q.scores(td, codes).shape == (*size, 9)
        assert set(td.keys()) == before


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_single_and_double_precision_agree(prior: Prior) -> None:
    q, td = estimator(prior), data(prior)
    wide = copy.deepcopy(q).double()
    exact = wide.log_ratio(td.clone().set("history", td["history"].double()))
    torch.testing.assert_close(q.log_ratio(td).double(), exact, atol=1e-4, rtol=1e-4)


@given(SEEDS, st.integers(2, 40), st.sampled_from([1e-4, 0.1, 1.0, None]), st.sampled_from(PRIORS))
def test_no_critic_exceeds_the_limit(
    seed: int, num_samples: int, temperature: float | None, prior: Prior
) -> None:
    torch.manual_seed(seed)
    q = estimator(prior, num_samples=num_samples, temperature=temperature)
    for parameter in q.parameters():
        parameter.data.mul_(10)
    ratio = q.log_ratio(data(prior))
    assert torch.isfinite(ratio).all()
    assert (ratio <= q.upper_limit + 1e-5).all()
    assert q.upper_limit <= math.log(num_samples) + 1e-12
    assert 0 <= q.scale <= math.log(num_samples)


def test_limits_and_scales() -> None:
    discrete, continuous = estimator(num_samples=256), estimator(NormalPrior(2), num_samples=256)
    assert continuous.upper_limit == continuous.scale == pytest.approx(math.log(256))
    assert discrete.upper_limit == pytest.approx(math.log(256 * 4 / (4 + 255)))
    assert discrete.scale == pytest.approx(math.log(4))
    assert estimator(16, num_samples=4).scale == pytest.approx(math.log(4))
    assert estimator(SKEWED, num_samples=10**9).upper_limit == pytest.approx(math.log(5))
    single = estimator(1)
    assert single.scale == single.upper_limit == 0.0
    assert discrete.is_lower_bound
    assert not discrete.transitions


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
@pytest.mark.parametrize("zero", ["network", "code_network"])
def test_a_constant_critic_pays_exactly_nothing(prior: Prior, zero: str) -> None:
    q, td = estimator(prior), data(prior)
    for parameter in getattr(q, zero).parameters():
        nn.init.zeros_(parameter)
    assert (q.log_ratio(td) == 0).all()
    assert (q.sample_loss(td) == 0).all()
    assert q.bound(td) == 0


@given(SEEDS)
def test_ratio_of_discrete_codes_by_hand(seed: int) -> None:
    torch.manual_seed(seed)
    q, td = estimator(SKEWED, num_samples=7), data(SKEWED)
    scores = q.scores(td, torch.arange(CODES)).double()
    own = scores.gather(1, td["latent"][:, None]).squeeze(1)
    total = own.exp() + 6 * scores.exp() @ SKEWED.probs
    torch.testing.assert_close(
        q.log_ratio(td).double(), own - (total / 7).log(), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(q.bound(td), q.log_ratio(td).mean())


@given(SEEDS)
def test_ratio_of_continuous_codes_by_hand(seed: int) -> None:
    torch.manual_seed(seed)
    prior = NormalPrior(2)
    q, td = estimator(prior, num_samples=7), data(prior)
    others = q.scores(td, q.contrasts).double().exp().sum(1)
    own = torch.stack([q.scores(row, row["latent"][None])[0] for row in td]).double()
    expected = own - ((own.exp() + others) / 7).log()
    torch.testing.assert_close(q.log_ratio(td).double(), expected, atol=1e-5, rtol=1e-4)


@given(SEEDS)
def test_codes_may_change_names_with_their_embeddings(seed: int) -> None:
    torch.manual_seed(seed)
    order = torch.randperm(CODES)
    q, td = estimator(SKEWED), data(SKEWED)
    renamed = estimator(CategoricalPrior(SKEWED.probs[order]))
    renamed.load_state_dict(q.state_dict())
    renamed.code_network.weight.data = q.code_network.weight.data[:, order]
    other = td.clone().set("latent", order.argsort()[td["latent"]])
    torch.testing.assert_close(renamed.log_ratio(other), q.log_ratio(td))
    torch.testing.assert_close(renamed.log_prob(td), q.log_prob(td)[:, order])


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_the_reward_is_deterministic_and_row_by_row(prior: Prior) -> None:
    q, td = estimator(prior, noise=0.5), data(prior, (12,))
    state = torch.get_rng_state()
    ratio = q.log_ratio(td)
    assert torch.equal(state, torch.get_rng_state())
    q.loss(td)
    q.bound(td)
    assert torch.equal(q.log_ratio(td), ratio)
    alone = torch.stack([q.log_ratio(td[i : i + 1])[0] for i in range(12)])
    torch.testing.assert_close(alone, ratio)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_training_draws_fresh_contrasts_and_noise(prior: Prior) -> None:
    q, td = estimator(prior), data(prior, (12,))
    torch.manual_seed(5)
    loss = q.sample_loss(td)
    assert not torch.equal(q.sample_loss(td), loss), "other contrasts"
    torch.manual_seed(5)
    assert torch.equal(q.sample_loss(td), loss)
    torch.manual_seed(5)
    torch.randn(12, FEATURES)  # the noise, of deviation 0, is drawn before
    contrasts = prior.sample(torch.Size([31]))
    scores = q.scores(td, torch.cat([td["latent"], contrasts]))
    expected = functional.contrastive_ratio(scores[:, :12].diagonal(), scores[:, 12:])
    torch.testing.assert_close(loss, -expected)
    q.network.module.std = 0.5
    torch.manual_seed(5)
    assert not torch.allclose(q.sample_loss(td), loss), "noise on the input"


@pytest.mark.parametrize("options", [{}, {"temperature": None}, {"num_samples": 4}])
def test_it_keeps_what_every_estimator_keeps(options: dict[str, float | None]) -> None:
    check_estimator(lambda: estimator(SKEWED, 0.1, **options), FEATURES, learn=False)


def test_the_contrasts_are_saved_and_restored() -> None:
    prior = NormalPrior(2)
    q, other, td = estimator(prior), estimator(prior), data(prior)
    assert q.contrasts.shape == (31, 2)
    assert not torch.equal(q.contrasts, other.contrasts)
    file = io.BytesIO()
    torch.save(q.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.log_ratio(td), q.log_ratio(td))


@pytest.mark.parametrize("prior", [CategoricalPrior(CODES), NormalPrior(2)], ids=repr)
def test_gradients_reach_every_parameter_and_are_finite(prior: Prior) -> None:
    for temperature in (0.2, None):
        q = estimator(prior, noise=0.1, temperature=temperature)
        q.loss(data(prior)).backward()
        gradients = [p.grad for p in q.parameters()]
        assert all(g is not None and torch.isfinite(g).all() and g.abs().sum() for g in gradients)


def test_a_learned_prior_is_read_as_it_stands_and_gets_no_gradient() -> None:
    prior = LearnedPrior(CODES)
    q, td = estimator(prior), data(prior)
    before = q.log_ratio(td).detach()
    q.loss(td).backward()
    assert prior.logits.grad is None
    prior.logits.data[0] = 3.0
    assert not torch.allclose(q.log_ratio(td), before)
    smallest = float(-prior.log_probs.min())
    assert q.upper_limit == pytest.approx(functional.contrastive_limit(32, smallest))


def test_codes_without_probability_keep_their_embedding() -> None:
    q = estimator(SKEWED)
    q.loss(data(SKEWED)).backward()
    gradient = q.code_network.weight.grad
    assert (gradient[:, 3] == 0).all()
    assert (gradient[:, :3].abs().sum(0) > 0).all()


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_nothing_is_claimed_for_codes_that_never_touch_the_features(prior: Prior) -> None:
    q = estimator(prior, num_samples=64)
    few = data(prior, (64,))
    optimizer = torch.optim.Adam(q.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        q.loss(few).backward()
        optimizer.step()
    fresh = data(prior, (2000,))
    error = 3 * float(q.log_ratio(fresh).std().detach()) / 2000**0.5
    assert float(q.bound(few).detach()) > 0.1, "it has learned its few rows by heart"
    assert float(q.bound(fresh).detach()) <= error


class Given(nn.Module):
    """Takes its input for the embedding, as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_the_bound_of_a_gaussian_channel_with_the_exact_critic() -> None:
    """log N(s; z, v) = (s z - z^2 / 2) / v + what depends on s alone, an inner product."""
    variance, size = 0.5, 2000
    prior = NormalPrior(1)

    class Code(nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.cat([z, -0.5 * z.square()], -1) / variance

    q = ContrastiveMI(
        Given(), prior, code_network=Code(), width=2, num_samples=256, temperature=None
    )
    z = prior.sample(torch.Size([size]))
    s = z + variance**0.5 * torch.randn_like(z)
    td = TensorDict({"history": torch.cat([s, torch.ones_like(s)], -1), "latent": z}, [size])
    truth = 0.5 * math.log(1 + 1 / variance)
    assert float(q.bound(td)) == pytest.approx(truth, abs=0.06)
    torch.manual_seed(1)
    readings = torch.stack([q.bound(td) for _ in range(5)])
    shuffled = td.clone().set("latent", z[torch.randperm(size)])
    assert 0 < float(readings.std()) < 0.03
    assert float(q.bound(shuffled)) < 0


def rollout(prior: Prior, seed: int, envs: int = 60, steps: int = 5) -> TensorDict:
    """Return transitions whose features show the code in noise."""
    torch.manual_seed(seed)
    codes = prior.sample(torch.Size([envs]))
    shown = torch.zeros(envs, FEATURES)
    shown[:, : prior.feature_dim] = prior.features(codes)
    features = shown[:, None] + 0.2 * torch.randn(envs, steps, FEATURES)
    latent = codes[:, None].expand(envs, steps, *codes.shape[1:])
    done = (torch.arange(steps) == steps - 1).view(1, steps, 1).expand(envs, steps, 1)
    return TensorDict(
        {"latent": latent, "next": {"history": features, "done": done}}, [envs, steps]
    )


@pytest.mark.parametrize("options", [{}, {"temperature": None}], ids=["cosine", "inner"])
def test_a_discoverer_learns_separate_codes(options: dict[str, float | None]) -> None:
    q = ContrastiveMI(FEATURES, CODES, **options)
    found = VariationalModeDiscoverer(q, batch_size=128, lr=1e-2)
    found.fit(rollout(found.prior, 99))
    for seed in range(5):
        found(rollout(found.prior, seed))
        figures = found.update()
    assert figures["held_out_accuracy"] > 0.98
    assert figures["bound_share"] > 0.9
    assert figures["aliased_codes"] == 0
    fresh = rollout(found.prior, 7)
    hits = found.log_prob(fresh["next"]).argmax(-1) == fresh["latent"]
    assert float(hits.float().mean()) > 0.98


def test_it_learns_continuous_codes() -> None:
    prior, q = NormalPrior(2), ContrastiveMI(FEATURES, NormalPrior(2), num_samples=128)
    train = rollout(prior, 0, 400).reshape(-1)
    td = train["next"].select("history").set("latent", train["latent"])
    q.fit_features(td["history"])
    optimizer = torch.optim.Adam(q.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        q.loss(td[torch.randint(len(td), (256,))]).backward()
        optimizer.step()
    test = rollout(prior, 1, 400).reshape(-1)
    fresh = test["next"].select("history").set("latent", test["latent"])
    truth = math.log(1 + 1 / 0.2**2)
    assert 0.75 * truth < float(q.bound(fresh).detach()) < truth
    assert float(q.log_ratio(fresh).detach().mean()) == pytest.approx(
        float(q.bound(fresh).detach()), abs=0.2
    )


def test_a_reward_recomputed_from_storage_is_what_was_paid() -> None:
    prior = NormalPrior(2)
    q = estimator(prior)
    reward = MIReward(q, timing="dense", gamma=0.99)
    td = data(prior, (20,)).set("next", data(prior, (20,)).select("history"))
    td["next", "reward"] = torch.zeros(20, 1)
    paid = reward(td.clone())["next", "mi_reward"]
    again = torch.cat([reward(row)["next", "mi_reward"] for row in td.clone().split(7)])
    torch.testing.assert_close(again, paid)
    limit = q.upper_limit / q.scale
    assert (paid.abs() <= limit + 1e-6).all()


def test_nested_keys_and_a_tensordict_module() -> None:
    keys = [("agent", "a"), ("agent", "b")]
    network = MLP(5, 8, (8,))
    q = ContrastiveMI(network, CODES, width=8, in_keys=keys, latent_key=("agent", "z"))
    a, b, z = torch.randn(7, 2), torch.randn(7, 3), torch.randint(CODES, (7,))
    td = TensorDict({"agent": TensorDict({"a": a, "b": b, "z": z}, [7])}, [7])
    module = TensorDictModule(network, ["x"], ["h"])
    flat = ContrastiveMI(module, CODES, code_network=q.code_network, width=8, out_key="h")
    reference = flat.log_ratio(TensorDict({"x": torch.cat([a, b], -1), "latent": z}, [7]))
    torch.testing.assert_close(q.log_ratio(td), reference)
    assert math.isfinite(float(q.loss(td).detach()))


def test_torch_s_standard_normal_is_a_prior() -> None:
    prior = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    assert isinstance(ContrastiveMI(FEATURES, prior).prior, NormalPrior)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="num_samples of at least 2, got 1"):
        ContrastiveMI(FEATURES, CODES, num_samples=1)
    with pytest.raises(ConfigurationError, match="positive temperature, got 0"):
        ContrastiveMI(FEATURES, CODES, temperature=0.0)
    with pytest.raises(ConfigurationError, match="length 32, got 16 from q"):
        ContrastiveMI(MLP(FEATURES, 16), CODES)
    with pytest.raises(ConfigurationError, match="codes of length 32, got 5"):
        ContrastiveMI(FEATURES, CODES, code_network=nn.Linear(CODES, 5))
    opaque = nn.Sequential(nn.Linear(CODES, 5))
    with pytest.raises(ConfigurationError, match="codes of length 32, got 5"):
        estimator(code_network=opaque).log_ratio(data(CategoricalPrior(CODES)))
    q, td = estimator(SKEWED), data(SKEWED)
    with pytest.raises(KeyMismatchError, match="'latent'"):
        q.log_ratio(td.select("history"))
    with pytest.raises(KeyMismatchError, match="'history'"):
        q.loss(td.select("latent"))
    with pytest.raises(ConfigurationError, match=r"support \[0, 1, 2\]"):
        q.loss(td.set("latent", torch.full((32,), 3)))
    with pytest.raises(ConfigurationError, match="discrete codes to tell apart"):
        estimator(NormalPrior(2)).log_prob(data(NormalPrior(2)))


def test_log_prob_is_the_ratio_s_posterior() -> None:
    q, td = estimator(SKEWED), data(SKEWED)
    log_prob = q.log_prob(td)
    torch.testing.assert_close(log_prob.exp().sum(-1), torch.ones(32))
    assert (log_prob[:, 3] == -math.inf).all()
    scores = q.scores(td, torch.arange(CODES))
    many = copy.deepcopy(q)
    many.num_samples = 10**9
    posterior = (scores + SKEWED.log_probs).log_softmax(-1).float()
    torch.testing.assert_close(many.log_prob(td), posterior, atol=1e-4, rtol=1e-4)
    ratio = functional.categorical_log_ratio(posterior, td["latent"], SKEWED.log_probs)
    torch.testing.assert_close(many.log_ratio(td), ratio, atol=1e-4, rtol=1e-4)
