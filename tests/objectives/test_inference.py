"""The classifier's loss in TorchRL's form."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from modereg.errors import ConfigurationError, KeyMismatchError, NonFiniteError
from modereg.estimators import KINDS, CategoricalMI
from modereg.networks import MLP, InputNoise
from modereg.objectives import InferenceLoss
from modereg.priors import CategoricalPrior

CODES, FEATURES = 4, 6
SKEWED = CategoricalPrior(torch.tensor([0.0, 0.5, 0.3, 0.2]))


def estimator(noise: float = 0.0, **options: object) -> CategoricalMI:
    return CategoricalMI(InputNoise(MLP(FEATURES, CODES, (16,)), noise), CODES, **options)


def data(*size: int) -> TensorDict:
    codes = torch.randint(CODES, size)
    return TensorDict({"history": torch.randn(*size, FEATURES), "latent": codes}, size)


@pytest.mark.parametrize("size", [(32,), (4, 5)])
def test_it_is_the_estimator_s_loss_and_bound(size: tuple[int, ...]) -> None:
    q, td = estimator(), data(*size)
    out = InferenceLoss(q)(td)
    torch.testing.assert_close(out["loss_inference"], q.loss(td))
    torch.testing.assert_close(out["mi_bound"], q.bound(td))
    hits = (q.log_prob(td).argmax(-1) == td["latent"]).float().mean()
    torch.testing.assert_close(out["mode_accuracy"], hits)
    assert set(out.keys()) == {"loss_inference", "mode_accuracy", "mi_bound"}
    assert not out["mi_bound"].requires_grad
    assert set(td.keys()) == {"history", "latent"}


def test_gradients_equal_those_of_the_estimator_and_reach_its_parameters() -> None:
    q, td = estimator(), data(32)
    q.loss(td).backward()
    expected = [p.grad.clone() for p in q.parameters()]
    q.zero_grad()
    InferenceLoss(q)(td)["loss_inference"].backward()
    for parameter, grad in zip(q.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_the_estimator_sees_each_optimiser_step() -> None:
    q, td = estimator(), data(64).set("history", torch.randn(64, FEATURES))
    td["latent"] = (td["history"][:, 0] > 0).long()
    loss = InferenceLoss(q)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    before = q.bound(td).detach()
    for _ in range(60):
        optimizer.zero_grad()
        loss(td)["loss_inference"].backward()
        optimizer.step()
    assert q.bound(td) > before + 0.5


def test_noise_is_on_the_loss_alone() -> None:
    loss, td = InferenceLoss(estimator(noise=0.5)), data(32)
    first, second = loss(td), loss(td)
    assert first["loss_inference"] != second["loss_inference"]
    assert first["mi_bound"] == second["mi_bound"]


def test_masks_weights_and_reductions() -> None:
    q, td = estimator(), data(10)
    nll = nn.functional.cross_entropy(q.logits(td), td["latent"], reduction="none")
    mask = torch.arange(10) < 6
    masked = td.clone().set(("collector", "mask"), mask)
    torch.testing.assert_close(InferenceLoss(q)(masked)["loss_inference"], nll[:6].mean())
    torch.testing.assert_close(InferenceLoss(q)(masked)["mi_bound"], q.bound(td[:6]))
    torch.testing.assert_close(InferenceLoss(q, reduction="none")(td)["loss_inference"], nll)
    weights = torch.rand(10)
    weighted = InferenceLoss(q)(td.clone().set("_weight", weights))["loss_inference"]
    torch.testing.assert_close(weighted, (weights * nll).sum() / weights.sum())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_padding_may_hold_anything(kind: str) -> None:
    """Not a number, and codes that no prior has, in the features, the code and their gradients."""
    q = KINDS[kind](FEATURES, {"gaussian": 2, "von_mises_fisher": 3}.get(kind, SKEWED))
    valid = torch.arange(12).view(3, 4) % 4 < torch.tensor([[4], [2], [1]])
    td = TensorDict({"history": torch.randn(3, 4, FEATURES)}, [3, 4])
    td["latent"] = q.prior.sample(td.batch_size)
    td["next", "history"] = torch.randn(3, 4, FEATURES)
    torch.manual_seed(0)
    expected = InferenceLoss(q)(td[valid])
    td["history"][~valid] = td["next", "history"][~valid] = torch.nan
    td["latent"][~valid] = 0
    td["collector", "mask"] = valid.unsqueeze(-1)
    torch.manual_seed(0)
    torch.testing.assert_close(InferenceLoss(q)(td), expected)
    for reduction in ("mean", "sum", "none"):
        out = InferenceLoss(q, reduction=reduction)(td)
        assert all(bool(value.isfinite().all()) for value in out.values())
        out["loss_inference"].sum().backward()
        grads = [p.grad for p in q.parameters() if p.grad is not None]
        assert grads
        assert all(bool(grad.isfinite().all()) for grad in grads)
    assert out["loss_inference"].shape == (3, 4)
    assert not out["loss_inference"][~valid].any()


@pytest.mark.parametrize("kind", ["lsd", "metra"])
def test_the_bound_of_steps_is_of_the_states_that_they_led_to(kind: str) -> None:
    q, td = KINDS[kind](FEATURES, CODES), data(8)
    td["next", "history"] = torch.randn(8, FEATURES)
    torch.testing.assert_close(InferenceLoss(q)(td)["mi_bound"], q.bound(td).detach())


def test_nested_keys() -> None:
    network = TensorDictModule(nn.Linear(FEATURES, CODES), [("a", "x")], [("a", "scores")])
    q = CategoricalMI(network, CODES, latent_key=("a", "z"), out_key=("a", "scores"))
    flat = data(8)
    inner = TensorDict({"x": flat["history"], "z": flat["latent"]}, [8])
    loss = InferenceLoss(q)
    assert loss.in_keys == [("a", "x"), ("a", "z")]
    out = loss(TensorDict({"a": inner}, [8]))
    reference = InferenceLoss(CategoricalMI(network.module, CODES))(flat)
    torch.testing.assert_close(out["loss_inference"], reference["loss_inference"])
    loss.set_keys(latent=("b", "code"))
    moved = TensorDict({"a": inner.select("x"), "b": {"code": flat["latent"]}}, [8])
    torch.testing.assert_close(loss(moved)["loss_inference"], out["loss_inference"])


def test_unknown_keys_are_refused() -> None:
    loss = InferenceLoss(estimator())
    with pytest.raises(ValueError, match="foo is not an accepted tensordict key.*latent"):
        loss.set_keys(foo="bar")
    with pytest.raises(ConfigurationError, match="set_keys"):
        loss.in_keys = ["x"]
    with pytest.raises(ConfigurationError, match="out_keys"):
        loss.out_keys = ["x"]


def test_bad_data_is_refused() -> None:
    loss, td = InferenceLoss(estimator()), data(4)
    with pytest.raises(KeyMismatchError, match="InferenceLoss reads 'latent'"):
        loss(td.select("history"))
    with pytest.raises(KeyMismatchError, match="InferenceLoss reads 'history'"):
        loss(td.select("latent"))
    with pytest.raises(ConfigurationError, match="codes between 9 and 9"):
        loss(td.set("latent", torch.full((4,), 9)))


def test_double_precision() -> None:
    q = estimator().double()
    out = InferenceLoss(q)(data(8).double().set("latent", torch.randint(CODES, (8,))))
    assert out["loss_inference"].dtype == torch.float64
    assert abs(float(out["loss_inference"].detach()) - math.log(CODES)) < 2


def test_a_feature_that_is_not_finite_is_named_before_the_loss() -> None:
    loss, batch = InferenceLoss(estimator()), data(8)
    batch["history"][3, 1] = torch.inf
    with pytest.raises(NonFiniteError, match=r"under 'history' in InferenceLoss, .* row \[3\]"):
        loss(batch)
    batch["collector", "mask"] = torch.arange(8) != 3
    assert bool(loss(batch)["loss_inference"].isfinite())


def test_an_empty_batch_is_refused() -> None:
    """Its mean would be NaN, and so would the weights after a step."""
    with pytest.raises(ConfigurationError, match="at least one row, got a batch of shape"):
        InferenceLoss(estimator())(data(0))
