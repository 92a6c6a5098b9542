"""The categorical estimator: its limits, its keys, its errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torch.distributions import Categorical

from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.estimators import CategoricalMI, RewardEstimator, check_support
from modereg.networks import MLP, InputNoise
from modereg.priors import CategoricalPrior, NormalPrior

CODES, FEATURES = 4, 6


def data(size: tuple[int, ...] = (32,), dtype: torch.dtype = torch.float32) -> TensorDict:
    history = torch.randn(*size, FEATURES, dtype=dtype)
    return TensorDict({"history": history, "latent": torch.randint(CODES, size)}, size)


def estimator(noise: float = 0.0, **options: object) -> CategoricalMI:
    return CategoricalMI(InputNoise(MLP(FEATURES, CODES, (16,)), noise), CODES, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(32,), (3, 5), ()])
def test_shapes_and_dtypes(size: tuple[int, ...], dtype: torch.dtype) -> None:
    q, td = estimator().to(dtype), data(size, dtype)
    before = set(td.keys())
    assert isinstance(q, RewardEstimator)
    assert q.is_lower_bound
    assert q.log_ratio(td).shape == size
    assert q.log_prob(td).shape == (*size, CODES)
    for value in (q.log_ratio(td), q.log_prob(td), q.loss(td), q.bound(td)):
        assert value.dtype == dtype
    assert q.loss(td).shape == q.bound(td).shape == ()
    assert set(td.keys()) == before


@given(st.integers(0, 1000))
def test_ratio_is_log_q_minus_log_p_under_its_limit(seed: int) -> None:
    torch.manual_seed(seed)
    probs = torch.rand(CODES).double() + 0.05
    prior = Categorical(probs=probs)
    q, td = CategoricalMI(nn.Linear(FEATURES, CODES), prior), data()
    logits = q.network.module(td["history"])
    expected = Categorical(logits=logits).log_prob(td["latent"]) - prior.log_prob(td["latent"])
    torch.testing.assert_close(q.log_ratio(td), expected.float())
    torch.testing.assert_close(q.bound(td), expected.mean().float())
    assert bool((q.log_ratio(td) <= q.upper_limit).all())
    assert q.upper_limit == pytest.approx(float(-prior.logits.min()))


def test_a_perfect_q_reaches_the_limit() -> None:
    linear = nn.Linear(CODES, CODES, bias=False)
    nn.init.eye_(linear.weight)
    linear.weight.data.mul_(1e4)
    q, latent = CategoricalMI(linear, CODES), torch.arange(CODES)
    td = TensorDict({"history": torch.eye(CODES), "latent": latent}, [CODES])
    assert q.upper_limit == pytest.approx(math.log(CODES))
    torch.testing.assert_close(q.log_ratio(td), torch.full((CODES,), math.log(CODES)))
    wrong = q.log_ratio(td.set("latent", latent.roll(1)))
    assert torch.isfinite(wrong).all()
    assert (wrong < -9e3).all()


def test_codes_without_probability_do_not_count_for_the_limit() -> None:
    prior = CategoricalPrior(torch.tensor([0.5, 0.5, 0.0]))
    assert CategoricalMI(nn.Linear(2, 3), prior).upper_limit == pytest.approx(math.log(2))


def test_noise_is_on_the_loss_alone() -> None:
    q, td = estimator(noise=0.5), data()
    torch.testing.assert_close(q.log_ratio(td), q.log_ratio(td), atol=0, rtol=0)
    assert torch.equal(q.bound(td), q.bound(td))
    assert not torch.equal(q.loss(td), q.loss(td))
    q.eval()
    assert not torch.equal(q.loss(td), q.loss(td)), "noise must not hang on the training mode"
    clean = estimator()
    nll = torch.nn.functional.cross_entropy(clean.network.module(td["history"]), td["latent"])
    torch.testing.assert_close(clean.loss(td), nll)


def test_the_loss_reaches_every_parameter() -> None:
    q = estimator(noise=0.1)
    q.loss(data()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in q.parameters())


def test_nested_keys_and_several_features() -> None:
    q = CategoricalMI(
        MLP(5, CODES, (8,)),
        CODES,
        in_keys=[("agent", "a"), ("agent", "b")],
        latent_key=("agent", "z"),
    )
    a, b, z = torch.randn(7, 2), torch.randn(7, 3), torch.randint(CODES, (7,))
    td = TensorDict({"agent": TensorDict({"a": a, "b": b, "z": z}, [7])}, [7])
    flat = CategoricalMI(q.network.module, CODES)
    reference = flat.log_ratio(TensorDict({"history": torch.cat([a, b], -1), "latent": z}, [7]))
    torch.testing.assert_close(q.log_ratio(td), reference)
    assert q.in_keys == [("agent", "a"), ("agent", "b")]


def test_any_tensordict_module_may_be_q() -> None:
    first = TensorDictModule(nn.Linear(FEATURES, 8), ["history"], ["hidden"])
    second = TensorDictModule(nn.Linear(8, CODES), ["hidden"], [("q", "logits")])
    sequence = TensorDictSequential(first, second)
    q, td = CategoricalMI(sequence, CODES, out_key=("q", "logits")), data()
    expected = second.module(first.module(td["history"])).log_softmax(-1)
    torch.testing.assert_close(q.log_prob(td), expected)
    assert set(td.keys()) == {"history", "latent"}


def test_missing_entries_are_named() -> None:
    q, td = estimator(), data()
    with pytest.raises(KeyMismatchError, match="q reads 'history', which the tensordict lacks"):
        q.log_prob(td.select("latent"))
    with pytest.raises(KeyMismatchError, match="'latent'.*it has \\['history'\\]"):
        q.log_ratio(td.select("history"))


@pytest.mark.parametrize(
    "network",
    [
        MLP(FEATURES, CODES + 1),
        InputNoise(MLP(FEATURES, CODES + 1), 0.1),
        nn.Linear(FEATURES, CODES + 1),
        nn.Sequential(nn.Linear(FEATURES, 3), nn.Linear(3, CODES + 1)),
        TensorDictModule(nn.Linear(FEATURES, CODES + 1), ["history"], ["logits"]),
    ],
)
def test_another_number_of_codes_is_refused_at_construction(network: nn.Module) -> None:
    with pytest.raises(ConfigurationError, match="prior's 4 codes, got 5"):
        CategoricalMI(network, CODES)


def test_another_number_of_codes_is_refused_at_the_first_call() -> None:
    class Opaque(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[..., :3]

    with pytest.raises(ConfigurationError, match="prior's 4 codes, got 3"):
        CategoricalMI(Opaque(), CODES).log_ratio(data())


def test_what_cannot_work_is_refused_at_construction() -> None:
    with pytest.raises(ConfigurationError, match="discrete prior"):
        CategoricalMI(nn.Linear(2, 2), NormalPrior(2))
    module = TensorDictModule(nn.Linear(2, 2), ["history"], ["logits"])
    with pytest.raises(ConfigurationError, match="leave them out"):
        CategoricalMI(module, 2, in_keys=["other"])
    with pytest.raises(ConfigurationError, match="pass the key of its output"):
        CategoricalMI(module, 2, out_key="scores")


@pytest.mark.parametrize("code", [-1, CODES, 2])
def test_codes_outside_the_support_are_refused(code: int) -> None:
    prior = CategoricalPrior(torch.tensor([0.25, 0.5, 0.0, 0.25]))
    td = data().set("latent", torch.full((32,), code))
    q = CategoricalMI(nn.Linear(FEATURES, CODES), prior)
    with pytest.raises(ConfigurationError, match=r"support \[0, 1, 3\]"):
        q.loss(td)


def test_support_of_continuous_and_of_no_codes() -> None:
    check_support(NormalPrior(2), torch.full((3, 2), 99.0))
    check_support(CategoricalPrior(3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ConfigurationError, match="integer codes"):
        check_support(CategoricalPrior(3), torch.zeros(2))


def test_it_compiles() -> None:
    q, td = estimator(), data()
    compiled = torch.compile(q.log_ratio, backend="aot_eager")
    torch.testing.assert_close(compiled(td), q.log_ratio(td))


def test_state_dict_holds_tensors_alone() -> None:
    q, other, td = estimator(noise=0.3), estimator(), data()
    assert all(isinstance(value, torch.Tensor) for value in q.state_dict().values())
    other.load_state_dict(q.state_dict())
    torch.testing.assert_close(other.log_ratio(td), q.log_ratio(td))
    assert other.network.module.std == pytest.approx(0.3)


class Given(nn.Module):
    """Takes its input for logits."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits


def test_figures_by_hand() -> None:
    q = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.5, 0.3, 0.2]])
    codes = torch.tensor([0, 1, 1, 1])  # code 1 is read as 0 twice and as 2 once; 2 never drawn
    prior = CategoricalPrior(torch.tensor([0.5, 0.25, 0.25]))
    estimator = CategoricalMI(Given(), prior, in_keys=["history"])
    final = TensorDict({"history": q.log(), "latent": codes}, [4])
    figures = estimator.figures(final)
    bound = (math.log(0.7 / 0.5) + 3 * math.log(0.3 / 0.25)) / 4
    assert figures["bound"] == pytest.approx(bound)
    assert figures["bound_share"] == pytest.approx(bound / (1.5 * math.log(2)))
    assert figures["held_out_accuracy"] == 0.25
    assert figures["aliased_codes"] == 1


def test_the_bound_is_not_clamped() -> None:
    q = torch.tensor([[1e-6, 1 - 1e-6]])
    estimator = CategoricalMI(Given(), 2, in_keys=["history"])
    final = TensorDict({"history": q.log(), "latent": torch.tensor([0])}, [1])
    assert estimator.figures(final)["bound"] == pytest.approx(math.log(2e-6), rel=1e-4)


def test_one_code_has_no_share() -> None:
    estimator = CategoricalMI(Given(), 1, in_keys=["history"])
    final = TensorDict(
        {"history": torch.zeros(3, 1), "latent": torch.zeros(3, dtype=torch.int64)}, [3]
    )
    figures = estimator.figures(final)
    assert (figures["bound"], figures["bound_share"], figures["aliased_codes"]) == (0.0, 0.0, 0)


def test_merged_codes_are_an_option_that_checkpoints_keep() -> None:
    q = estimator(merged=[(3, 1)])
    assert q.options() == {"merged": [[1, 3]]}
    assert q.groups.tolist() == [0, 1, 2, 1]
    assert estimator().options() == {}
    assert set(q.state_dict()) == set(estimator().state_dict())
    assert q.upper_limit == pytest.approx(math.log(4))
    assert q.scale == pytest.approx(1.5 * math.log(2))
    td = data()
    paid = q.log_ratio(td)
    q.merge([])
    apart = q.log_ratio(td)
    alone = td["latent"] % 2 == 0
    assert torch.equal(paid[alone], apart[alone])
    assert not torch.equal(paid, apart)


@pytest.mark.parametrize("merged", [[(1,)], [(0, 1), (1, 2)], [(0, 4)], [(-1, 0)], [()], [(2, 2)]])
def test_sets_that_cannot_be_merged_are_refused(merged: list[tuple[int, ...]]) -> None:
    with pytest.raises(ConfigurationError, match="expected disjoint sets of two or more codes in"):
        estimator(merged=merged)
