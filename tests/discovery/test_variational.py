"""The paper's discoverer: what it learns, holds out, scales and restores."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import Compose, PendulumEnv, TransformedEnv, UnsqueezeTransform

from modereg.discovery.variational import VariationalModeDiscoverer, _held_out
from modereg.errors import ConfigurationError, KeyMismatchError, NonFiniteError
from modereg.estimators import METRA, CategoricalMI, GaussianMI
from modereg.networks import MLP, InputNoise
from modereg.priors import CategoricalPrior
from modereg.transforms import LatentConditioner

CODES, FEATURES = 4, 6


def rollout(
    envs: int = 40, steps: int = 5, *, separation: float = 1.0, seed: int = 0
) -> TensorDict:
    """Return codes that lead to features around points on the axes."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(CODES, (envs, 1), generator=generator).expand(envs, steps)
    features = 0.1 * torch.randn(envs, steps, FEATURES, generator=generator)
    features = features + separation * torch.eye(CODES, FEATURES)[codes]
    done = (torch.arange(steps) == steps - 1).view(1, steps, 1).expand(envs, steps, 1)
    return TensorDict({"latent": codes, "next": {"history": features, "done": done}}, [envs, steps])


def discoverer(
    noise: float | None = None, hidden: tuple[int, ...] = (32,), **options: Any
) -> VariationalModeDiscoverer:
    network = InputNoise(MLP(FEATURES, CODES, hidden), noise)
    given = {"batch_size": 64} | options
    return VariationalModeDiscoverer(CategoricalMI(network, CODES), **given)


def test_it_learns_separate_codes() -> None:
    found = discoverer(lr=1e-2)
    found.fit(rollout())
    for seed in range(6):
        found(rollout(seed=seed))
        metrics = found.update()
    assert metrics["held_out_accuracy"] > 0.98
    assert metrics["bound_share"] > 0.95
    assert metrics["bound"] == pytest.approx(metrics["bound_share"] * math.log(CODES))
    assert metrics["bound"] == pytest.approx(math.log(CODES) - metrics["held_out_loss"], abs=1e-5)
    assert metrics["aliased_codes"] == 0
    assert metrics["loss"] < 0.3


def test_noise_is_on_the_training_input_only() -> None:
    losses = {}
    for noise in (0.0, 100.0):
        found = discoverer(lr=1e-2, noise=noise, steps=60)
        found(rollout())
        found.update()
        losses[noise] = found.update()["loss"]
        td = rollout()["next"]
        assert torch.equal(found.log_prob(td), found.log_prob(td))
    assert losses[0.0] < 0.1
    assert losses[100.0] > 1.0, "noise far above the features hides the codes"


def test_it_claims_nothing_where_there_is_nothing() -> None:
    found = discoverer(steps=300, lr=1e-2, hidden=(128,), noise=0.0)
    data = rollout(60, 2, separation=0.0)
    found.fit(data)
    found(data)
    found.estimator.network.module.std = 0.0
    metrics = found.update()
    assert metrics["loss"] < 1.0, "it over-fits its rows"
    assert metrics["bound"] < 0.0, "but the bound is held out"


def test_codes_of_one_behaviour_are_aliased() -> None:
    data = rollout(200)
    codes = data["latent"].clone()
    merged = torch.eye(CODES, FEATURES)[codes.clamp_max(1)]  # codes 1, 2 and 3 look alike
    data["next", "history"] = merged + 0.1 * torch.randn(200, 5, FEATURES)
    found = discoverer(lr=1e-2, steps=60)
    found(data)
    metrics = found.update()
    assert metrics["aliased_codes"] == 2
    assert metrics["bound_share"] < 0.6


def test_update_takes_adam_steps_on_the_training_rows_alone() -> None:
    found, data = discoverer(steps=1, batch_size=16, noise=0.0), rollout()
    reference = MLP(FEATURES, CODES, (32,))
    reference.load_state_dict(found.estimator.network.module.network.state_dict())
    found.observe(data)
    torch.manual_seed(4)
    found.update()
    torch.manual_seed(4)
    train = data[[i for i in range(40) if i % 10]].reshape(-1)
    batch = train[torch.randint(len(train), (16,))]
    optimizer = torch.optim.Adam(reference.parameters(), 1e-3)
    logits = reference(batch["next", "history"])
    nn.functional.cross_entropy(logits, batch["latent"]).backward()
    optimizer.step()
    for ours, theirs in zip(found.estimator.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("start", ["fresh", "trained"])
def test_a_restored_discoverer_goes_on_bit_for_bit(start: str) -> None:
    first, second = discoverer(), discoverer()
    first.fit(rollout())
    if start == "trained":
        for seed in range(5):
            first(rollout(seed=seed))
            first.update()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    results = []
    for found in (first, second):
        torch.manual_seed(7)
        found(rollout(seed=9))
        results.append([found.update(), found.update()])
    assert results[0] == results[1]
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_state_dict_is_a_snapshot_of_the_optimiser() -> None:
    found = discoverer()
    found(rollout())
    found.update()
    state = found.get_extra_state()
    moment = state["optimizer"]["state"][0]["exp_avg"].clone()
    found.update()
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], moment)
    other = discoverer()
    other.set_extra_state(state)
    other.update()
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], moment)


def test_as_a_collector_s_postproc() -> None:
    column = UnsqueezeTransform(dim=-1, in_keys=["thdot"], out_keys=["speed"])
    env = TransformedEnv(PendulumEnv(), Compose(column, LatentConditioner(3)))
    found = VariationalModeDiscoverer(CategoricalMI(1, 3, in_keys=["speed"]), window=2)
    collector = Collector(env, None, frames_per_batch=40, total_frames=120, postproc=found)
    batches = [batch.clone() for batch in collector]
    collector.shutdown()
    assert len(found._data()) == 80
    expected = torch.cat([batch["next", "speed"] for batch in batches[1:]])
    assert torch.equal(found._data()["speed"], expected)
    assert math.isfinite(found.update()["loss"])


def test_equal_seeds_give_equal_results() -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        found = discoverer(noise=0.3)
        found(rollout())
        results.append(found.update())
    assert results[0] == results[1]


def test_only_the_last_observations_are_kept_and_reset_forgets_them() -> None:
    found = discoverer(window=2)
    for seed in range(3):
        found(rollout(seed=seed))
    kept = found._data()
    expected = torch.cat([rollout(seed=seed)["next", "history"].reshape(-1, 6) for seed in (1, 2)])
    assert torch.equal(kept["history"], expected)
    found.reset_buffer()
    with pytest.raises(ConfigurationError, match=r"call observe\(rollout\)"):
        found.update()


def test_the_buffer_is_a_copy() -> None:
    found, data = discoverer(), rollout()
    found(data)
    data["next", "history"].zero_()
    data["latent"] = data["latent"] * 0
    assert found._data()["history"].abs().sum() > 0
    assert found._data()["latent"].sum() > 0


def test_masked_rows_are_dropped() -> None:
    found, data = discoverer(), rollout()
    mask = torch.rand(40, 5) < 0.5
    data["collector", "mask"] = mask
    data["next", "history"][~mask] = float("nan")
    data["latent"] = torch.where(mask, data["latent"], 99)
    found.fit(data)
    found(data)
    assert torch.equal(found._data()["history"], data["next", "history"][mask])
    assert math.isfinite(found.update()["bound"])


def test_flat_data_with_episodes() -> None:
    found = discoverer()
    found(rollout().reshape(-1))
    assert found._window[0]["held_out"].sum() == 20
    assert math.isfinite(found.update()["loss"])


def episodes(rows: TensorDict) -> torch.Tensor:
    return _held_out(rows).reshape(rows.batch_size)


def test_what_is_held_out() -> None:
    whole = episodes(rollout(20, 3))
    assert torch.equal(whole, (torch.arange(20) % 10 == 0)[:, None].expand(20, 3))
    done = torch.zeros(2, 12, 1, dtype=torch.bool)
    done[:, 1:-1:2] = True  # twelve episodes of two steps, of which two are under way at the end
    few = episodes(TensorDict({"next": {"done": done}}, [2, 12]))
    assert few.nonzero()[:, 1].tolist() == [0, 1, 8, 9]
    assert few.nonzero()[:, 0].tolist() == [0, 0, 1, 1]
    single = episodes(TensorDict({"next": {"done": done[:1] & False}}, [1, 12]))
    assert single.nonzero()[:, 1].tolist() == [0, 10]
    unknown = episodes(TensorDict({}, [21]))
    assert unknown.nonzero().flatten().tolist() == [0, 10, 20]


def test_one_scale_for_all_features_and_a_noise_in_its_units() -> None:
    found, data = discoverer(), rollout(200)
    stretched = torch.tensor([100.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    features = 7 + data["next", "history"] * stretched
    data["next", "history"] = features
    found.fit(data)
    rows = features.reshape(-1, FEATURES)
    scale = rows.var(0).mean().sqrt()
    mlp = found.estimator.network.module.network
    torch.testing.assert_close(mlp.features.scale, scale.expand(FEATURES))
    torch.testing.assert_close(mlp.features.shift, rows.mean(0))
    assert found.estimator.network.module.std == pytest.approx(0.2 * float(scale))
    fixed = discoverer(noise=0.5)
    fixed.fit(data)
    assert fixed.estimator.network.module.std == 0.5


def test_scaling_makes_learning_independent_of_units() -> None:
    results = []
    for unit in (1.0, 64.0):  # a power of two, so that rounding is the same
        torch.manual_seed(0)
        found, data = discoverer(), rollout()
        data["next", "history"] = unit * data["next", "history"]
        found.fit(data)
        found(data)
        results.append(found.update())
    assert results[0]["bound"] == pytest.approx(results[1]["bound"], rel=1e-4)
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-4)


def test_a_network_and_keys_of_one_s_own() -> None:
    network = InputNoise(nn.Linear(FEATURES, CODES), 0.1)
    in_keys = [("o", "a"), ("o", "b")]
    found = VariationalModeDiscoverer(
        CategoricalMI(network, CODES, in_keys=in_keys, latent_key=("o", "z"))
    )
    data = rollout()
    features = data["next", "history"]
    nested = TensorDict(
        {
            "o": {"z": data["latent"]},
            "next": {"o": {"a": features[..., :2], "b": features[..., 2:]}},
        },
        data.batch_size,
    )
    found(nested)
    assert set(found.update()) == {
        "loss",
        "held_out_loss",
        "held_out_accuracy",
        "bound",
        "bound_share",
        "aliased_codes",
    }
    assert found.log_prob(nested["next"]).shape == (40, 5, CODES)
    with pytest.raises(ConfigurationError, match="scale the input in your own network"):
        found.fit(nested)


def test_one_code_has_no_share() -> None:
    found = VariationalModeDiscoverer(CategoricalMI(FEATURES, 1))
    data = rollout()
    found(data.set("latent", torch.zeros(40, 5, dtype=torch.int64)))
    metrics = found.update()
    assert metrics["bound"] == metrics["bound_share"] == 0.0


def test_bad_options_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 1 and a positive lr"):
        discoverer(steps=0)
    with pytest.raises(ConfigurationError, match="at least 1 and a positive lr"):
        discoverer(lr=0.0)
    with pytest.raises(ConfigurationError, match=r"CategoricalMI\(feature_dim, num_codes\), got 6"):
        VariationalModeDiscoverer(FEATURES)


def test_bad_data_is_refused() -> None:
    found, data = discoverer(), rollout()
    with pytest.raises(KeyMismatchError, match=r"\('next', 'history'\)"):
        found(TensorDict({"latent": data["latent"], "history": data["next", "history"]}, [40, 5]))
    with pytest.raises(KeyMismatchError, match="'latent'"):
        found(data.exclude("latent"))
    with pytest.raises(ConfigurationError, match="codes between 5 and 5"):
        found(data.clone().set("latent", torch.full((40, 5), 5)))
    broken = data.clone()
    broken["next", "history"][3, 2, 1] = float("nan")
    with pytest.raises(NonFiniteError, match=r"discoverer observes, .* row \[3, 2\]"):
        found(broken)
    assert not found._window
    found(data[:1, :1])
    with pytest.raises(ConfigurationError, match="1 rows of which 1 are held out"):
        found.update()


def test_codes_without_probability_are_refused() -> None:
    prior = CategoricalPrior(torch.tensor([0.5, 0.5, 0.0, 0.0]))
    with pytest.raises(ConfigurationError, match=r"support \[0, 1\]"):
        VariationalModeDiscoverer(CategoricalMI(FEATURES, prior))(rollout())


@pytest.mark.parametrize("batch", ["rollout", "flat"])
def test_continuous_codes_keep_their_length(batch: str) -> None:
    found, data = VariationalModeDiscoverer(GaussianMI(FEATURES, 2), lr=1e-2), rollout(200)
    codes = torch.randn(200, 1, 2).expand(200, 5, 2)
    data["next", "history"] = torch.cat([codes, codes, codes], -1) + 0.1 * torch.randn(200, 5, 6)
    data["latent"] = codes
    data = data if batch == "rollout" else data.reshape(-1)
    found.fit(data)
    for _ in range(6):
        found(data)
        metrics = found.update()
    assert found._data()["latent"].shape == (len(found._window) * 1000, 2)
    assert metrics["bound"] > 1.0
    assert set(metrics) == {"loss", "bound", "bound_share"}


def test_an_estimator_that_learns_from_steps_sees_both_ends() -> None:
    found, data = VariationalModeDiscoverer(METRA(FEATURES, CODES)), rollout()
    data["history"] = torch.randn(40, 5, FEATURES)
    found(data)
    kept = found._data()
    assert torch.equal(kept["history"], data["history"].reshape(-1, FEATURES))
    assert torch.equal(kept["next", "history"], data["next", "history"].reshape(-1, FEATURES))
    assert math.isfinite(found.update()["loss"])


def test_features_of_decisions_are_read_in_the_root() -> None:
    estimator = CategoricalMI(FEATURES + 2, CODES, in_keys=["history", "action"], source="root")
    found, data = VariationalModeDiscoverer(estimator), rollout()
    data["history"], data["action"] = torch.randn(40, 5, FEATURES), torch.randn(40, 5, 2)
    found.fit(data)
    found(data)
    assert torch.equal(found._data()["history"], data["history"].reshape(-1, FEATURES))
    assert math.isfinite(found.update()["loss"])
    with pytest.raises(KeyMismatchError, match="'action'"):
        found(data.exclude("action"))


@pytest.mark.parametrize("lr", [math.nan, math.inf, 0.0, -1.0])
def test_a_learning_rate_that_is_no_step_is_refused(lr: float) -> None:
    with pytest.raises(ConfigurationError, match="positive lr, got"):
        VariationalModeDiscoverer(CategoricalMI(FEATURES, 4), lr=lr)


def test_an_empty_rollout_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the discoverer expects at least one row"):
        discoverer()(rollout()[:0])
