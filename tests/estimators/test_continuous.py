"""The estimators for continuous codes: limits, symmetries, keys, errors, and known channels."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from modereg.discovery import VariationalModeDiscoverer
from modereg.errors import ConfigurationError, KeyMismatchError, ShapeError
from modereg.estimators import CategoricalMI, GaussianMI, RewardEstimator, VonMisesFisherMI
from modereg.networks import MLP, InputNoise
from modereg.priors import CategoricalPrior, NormalPrior, SphericalPrior
from modereg.testing import check_estimator
from modereg.transforms import MIReward

DIM, FEATURES = 3, 6
SEEDS = st.integers(0, 10_000)

Make = Callable[..., RewardEstimator]
BOTH = pytest.mark.parametrize("make", [GaussianMI, VonMisesFisherMI])


class Given(nn.Module):
    """Takes its input for the network's output."""

    def forward(self, output: torch.Tensor) -> torch.Tensor:
        return output


def width(make: Make) -> int:
    return 2 * DIM if make is GaussianMI else DIM + 1


def estimator(make: Make, noise: float = 0.0, **options: object) -> RewardEstimator:
    return make(InputNoise(MLP(FEATURES, width(make), (16,)), noise), DIM, **options)


def data(make: Make, size: tuple[int, ...] = (32,)) -> TensorDict:
    prior = NormalPrior(DIM) if make is GaussianMI else SphericalPrior(DIM)
    codes = prior.sample(torch.Size(size))
    return TensorDict({"history": torch.randn(*size, FEATURES), "latent": codes}, size)


def outputs(make: Make, output: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """Return the ratio of a network that gives these outputs, ``[N]``."""
    td = TensorDict({"history": output, "latent": latent}, [len(latent)])
    return make(Given(), latent.shape[-1]).log_ratio(td)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(32,), (3, 5), (), (0,), (0, 2)])
def test_shapes_and_dtypes(make: Make, size: tuple[int, ...], dtype: torch.dtype) -> None:
    q, td = estimator(make).to(dtype), data(make, size)
    assert q.is_lower_bound
    other = td.clone().set("latent", td["latent"].double())
    for value in (q.log_ratio(td), q.sample_loss(td), q.log_ratio(other), q.sample_loss(other)):
        assert value.shape == size
        assert value.dtype == dtype
        assert bool(torch.isfinite(value).all())
    assert q.loss(td).shape == q.bound(td).shape == ()
    assert set(td.keys()) == {"history", "latent"}


@BOTH
def test_precisions_agree(make: Make) -> None:
    q, td = estimator(make), data(make)
    single = q.log_ratio(td)
    torch.testing.assert_close(q.double().log_ratio(td).float(), single, rtol=1e-4, atol=1e-4)


@BOTH
def test_zeros_are_the_prior_and_pay_exactly_nothing(make: Make) -> None:
    network = MLP(FEATURES, width(make), (8,), zero_init=True)
    q, td = make(network, DIM), data(make)
    assert bool((q.log_ratio(td) == 0).all())
    torch.testing.assert_close(q.sample_loss(td), -q.prior.log_prob(td["latent"]))
    q.loss(td).backward()
    assert float(network.layers[-1].weight.grad.abs().sum()) > 0, "it must be able to learn"


@BOTH
@given(seed=SEEDS)
def test_the_loss_is_minus_log_q(make: Make, seed: int) -> None:
    torch.manual_seed(seed)
    q, td = estimator(make), data(make)
    log_q = q.log_ratio(td) + q.prior.log_prob(td["latent"])
    torch.testing.assert_close(q.sample_loss(td), -log_q)
    if isinstance(q, GaussianMI):
        loc, log_std = q.posterior(td)
        reference = Independent(Normal(loc, log_std.exp()), 1).log_prob(td["latent"])
        torch.testing.assert_close(log_q, reference, rtol=1e-4, atol=1e-4)


@given(SEEDS, st.floats(0.1, 1e4), st.floats(0.0, 1e6))
def test_no_direction_pays_more_than_the_limit(seed: int, max_kappa: float, size: float) -> None:
    torch.manual_seed(seed)
    q, td = VonMisesFisherMI(Given(), DIM, max_kappa=max_kappa), data(VonMisesFisherMI)
    td["history"] = size * torch.randn(32, DIM + 1)
    ratio, kappa = q.log_ratio(td), torch.linalg.vector_norm(q.posterior(td), dim=-1)
    assert bool((kappa <= max_kappa * (1 + 1e-6)).all())
    assert bool((ratio <= q.upper_limit * (1 + 1e-6) + 1e-6).all())
    assert q.scale == q.upper_limit > 0


def test_a_sharp_direction_reaches_the_limit() -> None:
    q, td = VonMisesFisherMI(Given(), DIM), data(VonMisesFisherMI)
    td["history"] = torch.cat([1e4 * td["latent"], torch.full((32, 1), 50.0)], -1)
    torch.testing.assert_close(q.log_ratio(td), torch.full((32,), q.upper_limit))
    assert q.upper_limit == pytest.approx(math.log(2 * 100.0))  # -log(sinh k / k) + k in R^3


def test_a_gaussian_has_no_limit_and_stays_in_its_range() -> None:
    q, td = GaussianMI(Given(), DIM, log_std_range=(-2.0, 0.5)), data(GaussianMI)
    assert q.upper_limit == math.inf
    assert q.scale == DIM
    td["history"] = 1e3 * torch.randn(32, 2 * DIM)
    _, log_std = q.posterior(td)
    assert -2.0 <= float(log_std.min()) < -1.9
    assert 0.4 < float(log_std.max()) <= 0.5
    far = torch.full((1, DIM), 1e3)
    assert float(outputs(GaussianMI, torch.cat([far, torch.zeros(1, DIM)], -1), far)) > 1e6


@given(SEEDS)
def test_turning_codes_and_means_together_changes_nothing(seed: int) -> None:
    torch.manual_seed(seed)
    latent, output = SphericalPrior(DIM).sample(torch.Size([20])), torch.randn(20, DIM + 1)
    turn = torch.linalg.qr(torch.randn(DIM, DIM))[0]
    turned = torch.cat([output[:, :DIM] @ turn, output[:, DIM:]], -1)
    torch.testing.assert_close(
        outputs(VonMisesFisherMI, turned, latent @ turn),
        outputs(VonMisesFisherMI, output, latent),
        rtol=1e-4,
        atol=1e-4,
    )


@given(SEEDS)
def test_permuting_components_changes_nothing(seed: int) -> None:
    torch.manual_seed(seed)
    latent, output = torch.randn(20, DIM), torch.randn(20, 2 * DIM)
    order = torch.randperm(DIM)
    permuted = output[:, torch.cat([order, DIM + order])]
    torch.testing.assert_close(
        outputs(GaussianMI, permuted, latent[:, order]), outputs(GaussianMI, output, latent)
    )


@BOTH
def test_the_loss_reaches_every_parameter_and_alone_has_noise(make: Make) -> None:
    q, td = estimator(make, noise=0.3), data(make)
    q.loss(td).backward()
    for parameter in q.parameters():
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())
        assert float(parameter.grad.abs().sum()) > 0
    assert torch.equal(q.log_ratio(td), q.log_ratio(td))
    assert not torch.equal(q.loss(td), q.loss(td))


@BOTH
def test_figures_and_what_only_discrete_codes_have(make: Make) -> None:
    q, td = estimator(make), data(make)
    figures = q.figures(td)
    assert set(figures) == {"bound", "bound_share"}
    assert figures["bound_share"] == pytest.approx(figures["bound"] / q.scale)
    with pytest.raises(ConfigurationError, match="discrete codes to tell apart"):
        q.log_prob(td)


@BOTH
def test_nested_keys(make: Make) -> None:
    keys = {"in_keys": [("a", "x")], "latent_key": ("a", "z")}
    q, td = estimator(make, **keys), data(make)
    nested = TensorDict({"a": TensorDict({"x": td["history"], "z": td["latent"]}, [32])}, [32])
    flat = make(q.network.module, DIM)
    torch.testing.assert_close(q.log_ratio(nested), flat.log_ratio(td))
    with pytest.raises(KeyMismatchError, match="'history'"):
        flat.log_ratio(nested)


@BOTH
def test_a_length_is_a_network_whose_features_can_be_fitted(make: Make) -> None:
    q, td = make(FEATURES, DIM), data(make)
    q.fit_features(3 * td["history"] + 1)
    assert q.network.module.std > 0
    assert q.log_ratio(td).shape == (32,)
    other = make(FEATURES, DIM)
    other.load_state_dict(q.state_dict())
    torch.testing.assert_close(other.log_ratio(td), q.log_ratio(td))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_directions_compile() -> None:
    q, td = estimator(VonMisesFisherMI), data(VonMisesFisherMI)
    compiled = torch.compile(q.log_ratio, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(td), q.log_ratio(td))


@BOTH
def test_what_cannot_work_is_refused(make: Make) -> None:
    with pytest.raises(ConfigurationError, match="prior"):
        make(FEATURES, CategoricalPrior(DIM))
    other = SphericalPrior(DIM) if make is GaussianMI else NormalPrior(DIM)
    with pytest.raises(ConfigurationError, match="expected a .*prior, got|uniform on a sphere"):
        make(FEATURES, other)
    with pytest.raises(ConfigurationError, match=f"outputs of length {width(make)}, got 5"):
        make(nn.Linear(FEATURES, 5), DIM)
    td = data(make)
    with pytest.raises(ShapeError, match=r"codes of shape \(32, 3\) under 'latent', got \(32,\)"):
        estimator(make).loss(td.set("latent", td["latent"][:, 0]))


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 0.0), (-math.inf, 1.0), (1.0, -1.0)])
def test_ranges_without_the_prior_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ConfigurationError, match="log_std_range"):
        GaussianMI(FEATURES, DIM, log_std_range=bounds)


@pytest.mark.parametrize("max_kappa", [0.0, -1.0, 1e5, math.nan])
def test_concentrations_out_of_range_are_refused(max_kappa: float) -> None:
    with pytest.raises(ConfigurationError, match="max_kappa"):
        VonMisesFisherMI(FEATURES, DIM, max_kappa=max_kappa)


# --- channels whose information is known


def gaussian_channel(rows: int, noise: float, dim: int) -> TensorDict:
    latent = torch.randn(rows, dim)
    states = latent + noise * torch.randn(rows, dim)
    return TensorDict({"history": states, "latent": latent}, [rows])


def sphere_channel(rows: int, kappa: float) -> TensorDict:
    """Show unit vectors of R^3 turned away from the code by a von Mises-Fisher angle."""
    latent = SphericalPrior(3).sample(torch.Size([rows]))
    share = torch.rand(rows, 1)
    cosine = 1 + (share + (1 - share) * math.exp(-2 * kappa)).log() / kappa
    aside = torch.randn(rows, 3)
    aside -= (aside * latent).sum(-1, keepdim=True) * latent
    aside = torch.nn.functional.normalize(aside, dim=-1)
    states = cosine * latent + (1 - cosine.square()).clamp_min(0).sqrt() * aside
    return TensorDict({"history": states, "latent": latent}, [rows])


def gaussian_truth(noise: float, dim: int) -> float:
    return dim / 2 * math.log1p(1 / noise**2)


def sphere_truth(kappa: float) -> float:
    """Return kappa A - log(sinh kappa / kappa) with A = coth kappa - 1 / kappa, nats."""
    log_mgf = kappa + math.log(-math.expm1(-2 * kappa) / (2 * kappa))
    return kappa / math.tanh(kappa) - 1 - log_mgf


@given(st.floats(0.1, 3.0), SEEDS)
def test_the_exact_posterior_of_a_gaussian_channel(noise: float, seed: int) -> None:
    torch.manual_seed(seed)
    td, snr = gaussian_channel(8_000, noise, DIM).double(), 1 / noise**2
    raw = 4 * math.atanh(0.5 * math.log1p(snr) / 4) * torch.ones(8_000, DIM).double()
    exact = torch.cat([td["history"] * snr / (1 + snr), -raw], -1)
    ratio = outputs(GaussianMI, exact, td["latent"])
    error = 5 * float(ratio.std()) / 8_000**0.5
    assert float(ratio.mean()) == pytest.approx(gaussian_truth(noise, DIM), abs=error)
    loc, log_std = GaussianMI(Given(), DIM).posterior(td.set("history", exact))
    worse = exact + torch.randn(2 * DIM).double() * 0.3
    q_loc, q_log_std = GaussianMI(Given(), DIM).posterior(td.set("history", worse))
    gap = ratio - outputs(GaussianMI, worse, td["latent"])
    kl = kl_divergence(Normal(loc, log_std.exp()), Normal(q_loc, q_log_std.exp())).sum(-1)
    error = 5 * float((gap - kl).std()) / 8_000**0.5
    assert float(gap.mean()) == pytest.approx(float(kl.mean()), abs=error + 1e-6)


@given(st.floats(0.5, 60.0), SEEDS)
def test_the_exact_posterior_of_a_channel_on_a_sphere(kappa: float, seed: int) -> None:
    torch.manual_seed(seed)
    td = sphere_channel(8_000, kappa)
    gain = 10 * math.atanh(math.log(kappa / math.sqrt(1 - (kappa / 1e4) ** 2)) / 10)
    exact = torch.cat([td["history"], torch.full((8_000, 1), gain)], -1)
    q = VonMisesFisherMI(Given(), 3, max_kappa=1e4)
    ratio = q.log_ratio(td.set("history", exact))
    error = 5 * float(ratio.std()) / 8_000**0.5
    assert float(ratio.mean()) == pytest.approx(sphere_truth(kappa), abs=error)


def train(q: RewardEstimator, td: TensorDict, steps: int = 200) -> None:
    optimizer = torch.optim.Adam(q.parameters(), 1e-2)
    for _ in range(steps):
        loss = q.loss(td[torch.randint(len(td), (256,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def problem(make: Make) -> tuple[RewardEstimator, Callable[[int], TensorDict], float]:
    """Return an estimator, how to draw data of a known channel, and its I(Z; S), nats."""
    if make is GaussianMI:
        q = GaussianMI(MLP(2, 4, (32,)), 2, source="root")
        return q, lambda rows: gaussian_channel(rows, 0.3, 2), gaussian_truth(0.3, 2)
    q = VonMisesFisherMI(MLP(3, 4, (32,)), 3, source="root")
    return q, lambda rows: sphere_channel(rows, 20.0), sphere_truth(20.0)


@BOTH
def test_training_closes_the_gap_from_below(make: Make) -> None:
    q, draw, truth = problem(make)
    train(q, draw(4096))
    ratio = q.log_ratio(draw(4096)).detach()
    error = 3 * float(ratio.std()) / 4096**0.5
    assert 0.93 * truth - error < float(ratio.mean()) < truth + error


@BOTH
def test_codes_that_never_touch_the_state_earn_nothing(make: Make) -> None:
    q, draw, _ = problem(make)
    td = draw(4096)
    train(q, td.set("latent", td["latent"][torch.randperm(4096)]), 100)
    fresh = draw(4096)
    ratio = q.log_ratio(fresh.set("latent", fresh["latent"].roll(1, 0))).detach()
    assert float(ratio.mean()) <= 3 * float(ratio.std()) / 4096**0.5


# --- where they are used


def transitions(make: Make, size: tuple[int, ...], place: str) -> TensorDict:
    """Return transitions with features and rewards, where ``place`` alone knows the code."""
    prior = {GaussianMI: NormalPrior(DIM), VonMisesFisherMI: SphericalPrior(DIM)}.get(make)
    latent = (prior or CategoricalPrior(DIM)).sample(torch.Size(size))
    features = latent if prior else torch.nn.functional.one_hot(latent, DIM).float()
    after = {"reward": torch.ones(*size, 1), "done": torch.zeros(*size, 1, dtype=torch.bool)}
    td = TensorDict({"latent": latent, "next": TensorDict(after, size)}, size)
    for where, other in ((td, "next"), (td["next"], "root")):
        unknown = torch.randn(*size, DIM)
        where["history"] = unknown if place == other else features + 0.1 * torch.randn(*size, DIM)
    return td


@pytest.mark.parametrize("make", [CategoricalMI, GaussianMI, VonMisesFisherMI])
@pytest.mark.parametrize("source", ["next", "root"])
def test_the_reward_reads_the_source(make: Make, source: str) -> None:
    q, td = make(DIM, DIM, source=source), transitions(make, (4, 5), source)
    out = MIReward(q, timing="dense", gamma=0.9)(td.clone())
    read = (td if source == "root" else td["next"]).select("history")
    ratio = q.log_ratio(read.set("latent", td["latent"])).detach()
    expected = ratio.clamp(-q.upper_limit, q.upper_limit) / q.scale
    torch.testing.assert_close(out["next", "mi_reward"].squeeze(-1), expected)
    total = out["next", "regularized_reward"]
    torch.testing.assert_close(total, 1.0 + out["next", "mi_reward"])


CONTINUOUS = [GaussianMI, VonMisesFisherMI]


@pytest.mark.parametrize("make", [CategoricalMI, *CONTINUOUS])
@pytest.mark.parametrize("source", ["next", "root"])
def test_a_discoverer_learns_from_the_source(make: Make, source: str) -> None:
    q = make(MLP(DIM, width(make) if make is not CategoricalMI else DIM, (32,)), DIM, source=source)
    discoverer = VariationalModeDiscoverer(q, steps=100, batch_size=256, lr=1e-2)
    discoverer.observe(transitions(make, (40, 20), source))
    assert discoverer.update()["bound_share"] > 0.6
    discoverer.reset_buffer()
    other = "root" if source == "next" else "next"
    discoverer.observe(transitions(make, (40, 20), other))
    discoverer.steps = 1
    assert discoverer.update()["bound"] < 0.0, "the other place knows nothing"


@BOTH
def test_a_discoverer_reaches_the_truth(make: Make) -> None:
    q, draw, truth = problem(make)
    discoverer = VariationalModeDiscoverer(q, steps=200, batch_size=256, lr=1e-2)
    discoverer.observe(draw(4096))
    error = 3 * q.log_ratio(draw(400)).std().item() / 400**0.5
    assert 0.9 * truth - error < discoverer.update()["bound"] < truth + error


@BOTH
def test_they_keep_what_every_estimator_promises(make: Make) -> None:
    check_estimator(lambda: make(FEATURES, DIM), FEATURES, learn=False)
