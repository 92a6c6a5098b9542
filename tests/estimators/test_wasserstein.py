"""METRA and LSD: potentials, steps, the constraint and its dual variable, what they learn."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import nn

from modereg.discovery import VariationalModeDiscoverer
from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.estimators import LSD, METRA, WassersteinDependency
from modereg.networks import MLP, InputNoise
from modereg.priors import CategoricalPrior, LearnedPrior, NormalPrior, Prior, SphericalPrior
from modereg.testing.estimators import check_estimator
from modereg.transforms import MIReward

CODES, FEATURES = 4, 2
SKEWED = CategoricalPrior(torch.tensor([0.5, 0.2, 0.3, 0.0]))
PRIORS = [CategoricalPrior(CODES), SKEWED, NormalPrior(3), SphericalPrior(2)]
KINDS = [METRA, LSD]
SEEDS = st.integers(0, 10_000)

both = pytest.mark.parametrize("kind", KINDS)


def transitions(
    prior: Prior, size: tuple[int, ...] = (32,), dtype: torch.dtype = torch.float32
) -> TensorDict:
    """Return steps that have nothing to do with the code."""
    before, after = torch.randn(2, *size, FEATURES, dtype=dtype)
    latent = prior.sample(torch.Size(size))
    data = {"history": before, "latent": latent, "next": {"history": after}}
    return TensorDict(data, size)


def rollout(
    seed: int, envs: int = 60, steps: int = 8, *, speed: float = 1.0, codes: int = CODES
) -> TensorDict:
    """Return walks from about the origin, each code in a direction of its own."""
    torch.manual_seed(seed)
    latent = torch.randint(codes, (envs, 1)).expand(envs, steps)
    angles = 2 * torch.pi * latent / codes
    moves = speed * (torch.stack([angles.cos(), angles.sin()], -1) + 0.1 * torch.randn(envs, 1, 2))
    start = 0.1 * torch.randn(envs, 1, 2)
    after = start + moves.cumsum(1)
    before = torch.cat([start, after[:, :-1]], 1)
    done = (torch.arange(steps) == steps - 1).view(1, steps, 1).expand(envs, steps, 1)
    data = {"latent": latent, "history": before, "next": {"history": after, "done": done}}
    return TensorDict(data, [envs, steps])


@both
@pytest.mark.parametrize("size", [(32,), (3, 5), (), (0,), (0, 2)])
@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_shapes_and_dtypes(
    kind: type[WassersteinDependency], prior: Prior, size: tuple[int, ...]
) -> None:
    for dtype in (torch.float32, torch.float64):
        phi, td = kind(FEATURES, prior).to(dtype), transitions(prior, size, dtype)
        before = set(td.keys(True, True))
        for value in (phi.log_ratio(td), phi.sample_loss(td)):
            assert value.shape == size
            assert value.dtype == dtype
        assert phi.loss(td).shape == phi.bound(td).shape == ()
        assert set(td.keys(True, True)) == before


@both
def test_what_it_claims(kind: type[WassersteinDependency]) -> None:
    phi = kind(FEATURES, CODES)
    assert phi.upper_limit == math.inf
    assert phi.scale == 1.0
    assert phi.transitions
    assert not phi.is_lower_bound
    assert phi.source == "next"
    assert float(phi.log_dual.detach().exp()) == pytest.approx(30.0)


def test_directions_are_the_paper_s() -> None:
    phi = METRA(FEATURES, CODES)
    expected = torch.full((4, 4), -1 / 3).fill_diagonal_(1.0)
    torch.testing.assert_close(phi.direction(torch.arange(4)), expected)
    skewed = METRA(FEATURES, SKEWED).direction(torch.arange(4))
    torch.testing.assert_close(SKEWED.probs.float() @ skewed, torch.zeros(4))
    z = torch.randn(5, 3)
    assert torch.equal(METRA(FEATURES, NormalPrior(3)).direction(z), z)
    single = METRA(FEATURES, 1)
    assert (single.log_ratio(transitions(CategoricalPrior(1))) == 0).all()


@both
@given(SEEDS, st.sampled_from(PRIORS))
def test_the_reward_is_the_papers_step_at_gamma_one(
    kind: type[WassersteinDependency], seed: int, prior: Prior
) -> None:
    torch.manual_seed(seed)
    phi, td = kind(FEATURES, prior), transitions(prior)
    td["next", "reward"] = torch.zeros(32, 1)
    before, after = (phi.network.module(x) for x in (td["history"], td["next", "history"]))
    code = phi.direction(td["latent"])
    for gamma in (1.0, 0.9):
        paid = MIReward(phi, timing="difference", gamma=gamma)(td)["next", "mi_reward"]
        expected = gamma * (after * code).sum(-1) - (before * code).sum(-1)
        torch.testing.assert_close(paid.squeeze(-1), expected, atol=1e-5, rtol=1e-5)


@given(SEEDS, st.sampled_from(PRIORS))
def test_losses_by_hand(seed: int, prior: Prior) -> None:
    torch.manual_seed(seed)
    td = transitions(prior)
    change = td["next", "history"] - td["history"]
    for kind, allowed in ((METRA, torch.ones(32)), (LSD, change.square().sum(-1))):
        phi = kind(FEATURES, prior, dual=2.0, tolerance=0.3)
        phi.network.module.std = 0.0
        step = phi.network.module(td["next", "history"]) - phi.network.module(td["history"])
        slack = (allowed - step.square().sum(-1)).clamp(max=0.3)
        objective = (step * phi.direction(td["latent"])).sum(-1)
        expected = -objective - 2.0 * slack + math.log(2.0) * slack
        torch.testing.assert_close(phi.sample_loss(td), expected)
        torch.testing.assert_close(phi.loss(td), expected.mean())


@both
@pytest.mark.parametrize("prior", [PRIORS[0], PRIORS[2]], ids=repr)
def test_gradients_reach_every_parameter_and_are_finite(
    kind: type[WassersteinDependency], prior: Prior
) -> None:
    for size in (1.0, 1e4):
        phi, td = kind(FEATURES, prior), transitions(prior)
        td["history"] *= size
        phi.loss(td).backward()
        gradients = [p.grad for p in phi.parameters() if p.requires_grad]
        assert all(g is not None and torch.isfinite(g).all() and g.abs().sum() for g in gradients)


@both
def test_a_learned_prior_is_read_as_it_stands_and_gets_no_gradient(
    kind: type[WassersteinDependency],
) -> None:
    prior = LearnedPrior(CODES)
    phi, td = kind(FEATURES, prior), transitions(prior)
    before = phi.log_ratio(td).detach()
    phi.loss(td).backward()
    assert prior.logits.grad is None
    prior.logits.data[0] = 3.0
    assert not torch.allclose(phi.log_ratio(td), before)
    centre = prior.probs.float() @ phi.direction(torch.arange(CODES))
    torch.testing.assert_close(centre, torch.zeros(CODES))


@both
def test_the_bias_of_the_last_layer_never_learns(kind: type[WassersteinDependency]) -> None:
    made = kind(FEATURES, CODES)
    bias = made.network.module.network.layers[-1].bias
    assert not bias.requires_grad
    assert (bias == 0).all()
    network = MLP(FEATURES, CODES, (8,))
    kind(network, CODES).loss(transitions(CategoricalPrior(CODES))).backward()
    torch.testing.assert_close(network.layers[-1].bias.grad, torch.zeros(4), atol=1e-6, rtol=0)


@both
def test_noise_moves_a_step_as_a_whole(kind: type[WassersteinDependency]) -> None:
    """A linear phi sees the same step, whatever the noise; another one does not."""
    td = transitions(CategoricalPrior(CODES))
    linear = nn.Linear(FEATURES, CODES)
    noisy, clean = kind(InputNoise(linear, 5.0), CODES), kind(linear, CODES)
    torch.testing.assert_close(noisy.sample_loss(td), clean.sample_loss(td), atol=1e-3, rtol=1e-3)
    curved = kind(InputNoise(MLP(FEATURES, CODES, (8,)), 5.0), CODES)
    assert not torch.equal(curved.sample_loss(td), curved.sample_loss(td))
    assert torch.equal(curved.log_ratio(td), curved.log_ratio(td))
    assert curved.figures(td) == curved.figures(td)


@both
@pytest.mark.parametrize(("size", "rises"), [(10.0, True), (0.0, False)])
def test_the_dual_variable_rises_when_the_constraint_is_violated(
    kind: type[WassersteinDependency], size: float, rises: bool
) -> None:
    linear = nn.Linear(FEATURES, CODES)
    linear.weight.data.fill_(size)
    phi = kind(linear, CODES, dual=1.0)
    optimizer = torch.optim.Adam([phi.log_dual], 0.1)
    phi.loss(transitions(CategoricalPrior(CODES))).backward()
    optimizer.step()
    assert (float(phi.log_dual.detach()) > 0) == rises


def train(phi: WassersteinDependency, steps: int, lr: float = 1e-2) -> None:
    td = rollout(0, 200).reshape(-1)
    phi.fit_features(td["next", "history"])
    optimizer = torch.optim.Adam([p for p in phi.parameters() if p.requires_grad], lr)
    for _ in range(steps):
        optimizer.zero_grad()
        phi.loss(td[torch.randint(len(td), (256,))]).backward()
        optimizer.step()


def lengths(phi: WassersteinDependency, td: TensorDict) -> torch.Tensor:
    """Return how long steps of phi are, in units of what their distance allows."""
    with torch.no_grad():
        step = phi.output(td["next"]) - phi.output(td)
        return step.norm(dim=-1) / phi.squared_distance(td).sqrt()


@both
def test_the_constraint_holds_on_steps_that_were_not_seen(
    kind: type[WassersteinDependency],
) -> None:
    torch.manual_seed(0)
    phi = kind(FEATURES, CODES)
    train(phi, 250)
    fresh = rollout(1, 100).reshape(-1)
    length = lengths(phi, fresh)
    assert float(length.mean()) < 1.05
    assert float((length < 1.2).float().mean()) > 0.95
    assert float(length.mean()) > 0.5, "and phi makes use of what it is allowed"
    steps = phi.figures(fresh)
    longest = math.sqrt(CODES / (CODES - 1)) * float(phi.squared_distance(fresh).sqrt().mean())
    assert 0.5 * longest < steps["step"] < 1.1 * longest


@both
def test_without_a_dual_variable_it_does_not(kind: type[WassersteinDependency]) -> None:
    torch.manual_seed(0)
    phi = kind(FEATURES, CODES, dual=1e-12)
    phi.log_dual.requires_grad_(False)
    train(phi, 100)
    fresh = rollout(1, 100).reshape(-1)
    assert float((lengths(phi, fresh) > 1.2).float().mean()) > 0.9
    assert phi.figures(fresh)["too_long"] > 0.9


@both
def test_a_discoverer_learns_the_directions(kind: type[WassersteinDependency]) -> None:
    torch.manual_seed(0)
    found = VariationalModeDiscoverer(kind(FEATURES, CODES), batch_size=128, lr=1e-2)
    found.fit(rollout(9))
    for seed in range(8):
        found(rollout(seed))
        figures = found.update()
    assert figures["aliased_codes"] == 0
    assert figures["step"] > 0
    fresh = rollout(20)
    hits = found.log_prob(fresh["next"]).argmax(-1) == fresh["latent"]
    assert float(hits[:, 2:].float().mean()) > 0.97
    own = found.estimator.log_ratio(fresh["next"].set("latent", fresh["latent"])).detach()
    assert float(own[:, -1].mean()) > 2 * float(own[:, 1].mean()) > 0, "it grows with distance"


def test_continuous_codes_align_with_where_they_lead() -> None:
    torch.manual_seed(0)
    prior, size = NormalPrior(2), 2000
    z = prior.sample(torch.Size([size]))
    before = torch.randn(size, FEATURES)
    after = before + nn.functional.normalize(z, dim=-1)
    td = TensorDict({"history": before, "latent": z, "next": {"history": after}}, [size])
    phi = METRA(MLP(FEATURES, 2, (32,)), prior)
    optimizer = torch.optim.Adam(phi.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        phi.loss(td[torch.randint(size, (256,))]).backward()
        optimizer.step()
    figures = phi.figures(td)
    assert figures["step"] > 0.7 * float(z.norm(dim=-1).mean())
    assert float(lengths(phi, td).mean()) < 1.1
    assert "held_out_accuracy" not in figures


def test_lsd_learns_alike_in_any_unit() -> None:
    losses = []
    for unit in (1.0, 64.0):  # a power of two, so that rounding is the same
        torch.manual_seed(0)
        phi, data = LSD(FEATURES, CODES), rollout(0, speed=0.3)
        for part in (data, data["next"]):
            part["history"] = unit * part["history"]
        phi.fit_features(data["next", "history"].reshape(-1, FEATURES))
        losses.append(phi.loss(data.reshape(-1)).detach())
    torch.testing.assert_close(losses[0], losses[1])


def test_distances() -> None:
    td = transitions(CategoricalPrior(CODES), (3, 4))
    assert torch.equal(METRA(FEATURES, CODES).squared_distance(td), torch.ones(3, 4))
    expected = torch.nn.functional.pairwise_distance(td["history"], td["next", "history"], eps=0)
    phi = LSD(FEATURES, CODES)
    torch.testing.assert_close(phi.squared_distance(td), expected.square())
    features = torch.randn(500, FEATURES) * torch.tensor([3.0, 0.1])
    phi.fit_features(features)
    unit = features.var(0).mean().sqrt()
    torch.testing.assert_close(phi.squared_distance(td), (expected / unit).square())
    copied = LSD(FEATURES, CODES)
    copied.load_state_dict(phi.state_dict())
    torch.testing.assert_close(copied.unit, unit)


@both
def test_nested_keys_and_several_features(kind: type[WassersteinDependency]) -> None:
    keys = [("agent", "a"), ("agent", "b")]
    network = MLP(5, CODES, (8,))
    phi = kind(network, CODES, in_keys=keys, latent_key=("agent", "z"))
    (a, a2), (b, b2) = torch.randn(2, 7, 2), torch.randn(2, 7, 3)
    z = torch.randint(CODES, (7,))
    td = TensorDict({"agent": {"a": a, "b": b, "z": z}, "next": {"agent": {"a": a2, "b": b2}}}, [7])
    joined = {"history": torch.cat([a, b], -1), "latent": z}
    after = {"history": torch.cat([a2, b2], -1)}
    flat = TensorDict(joined | {"next": after}, [7])
    reference = kind(network, CODES)
    torch.testing.assert_close(phi.sample_loss(td), reference.sample_loss(flat))
    torch.testing.assert_close(phi.log_ratio(td), reference.log_ratio(flat))
    assert phi.figures(td) == pytest.approx(reference.figures(flat))
    noisy = kind(InputNoise(network, 0.1), CODES, in_keys=keys, latent_key=("agent", "z"))
    assert torch.isfinite(noisy.sample_loss(td)).all()


@both
def test_figures_are_of_the_state_that_a_step_led_to(kind: type[WassersteinDependency]) -> None:
    phi, td = kind(FEATURES, CODES), transitions(CategoricalPrior(CODES), (200,))
    arrived = td["next"].select("history").set("latent", td["latent"])
    figures, reached = phi.figures(td), phi.figures(arrived)
    assert figures.items() >= reached.items()
    assert set(figures) - set(reached) == {"step", "too_long"}
    assert figures["bound"] == pytest.approx(float(phi.log_ratio(arrived).detach().mean()))
    assert figures["bound"] == pytest.approx(float(phi.bound(td).detach()))
    assert figures["dual"] == pytest.approx(30.0)


@both
def test_a_restored_discoverer_goes_on_bit_for_bit(kind: type[WassersteinDependency]) -> None:
    first, second = (
        VariationalModeDiscoverer(kind(FEATURES, CODES), steps=5, batch_size=32) for _ in range(2)
    )
    first.fit(rollout(0))
    first(rollout(0))
    first.update()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    results = []
    for found in (first, second):
        torch.manual_seed(7)
        results.append(found.update())
    assert results[0] == results[1]
    assert results[0]["dual"] != pytest.approx(30.0, abs=1e-4)


@both
def test_single_and_double_precision_agree(kind: type[WassersteinDependency]) -> None:
    phi, td = kind(FEATURES, SKEWED), transitions(SKEWED)
    phi.network.module.std = 0.0
    wide = td.clone()
    for part in (wide, wide["next"]):
        part["history"] = part["history"].double()
    exact = copy.deepcopy(phi).double()
    for name in ("log_ratio", "sample_loss"):
        value = getattr(exact, name)(wide).float()
        torch.testing.assert_close(getattr(phi, name)(td), value, atol=1e-4, rtol=1e-4)


@both
def test_it_keeps_what_every_estimator_keeps(kind: type[WassersteinDependency]) -> None:
    check_estimator(lambda: kind(FEATURES, SKEWED, dual=3.0), FEATURES, steps=80, rows=1024)


@both
def test_what_cannot_work_is_refused(kind: type[WassersteinDependency]) -> None:
    for options in ({"dual": 0.0}, {"dual": -1.0}, {"tolerance": 0.0}):
        with pytest.raises(ConfigurationError, match="positive dual variable and tolerance"):
            kind(FEATURES, CODES, **options)
    with pytest.raises(ConfigurationError, match="length 3, got 4 from q"):
        kind(MLP(FEATURES, 4), NormalPrior(3))
    phi, td = kind(FEATURES, CODES), transitions(CategoricalPrior(CODES))
    with pytest.raises(KeyMismatchError, match="'next'"):
        phi.loss(td.select("history", "latent"))
    with pytest.raises(KeyMismatchError, match="'history'"):
        phi.loss(td.exclude(("next", "history")))
    with pytest.raises(KeyMismatchError, match="'latent'"):
        phi.log_ratio(td.select("history"))
    with pytest.raises(ConfigurationError, match="codes between 9 and 9"):
        phi.loss(td.set("latent", torch.full((32,), 9)))
    with pytest.raises(ConfigurationError, match="discrete codes to tell apart"):
        kind(FEATURES, NormalPrior(2)).log_prob(transitions(NormalPrior(2)))
