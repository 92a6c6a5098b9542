"""The loss of the distillation: its value, what learns, masks, the share drawn, its moments."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from modereg.errors import ConfigurationError, KeyMismatchError, NonFiniteError, ShapeError
from modereg.novelty import RandomNetworkDistillation
from modereg.objectives import DistillationLoss

FEATURES = 3


def distillation(features: int = FEATURES, **options: Any) -> RandomNetworkDistillation:
    rnd = RandomNetworkDistillation.mlp(features, 8, (16,), **options)
    rnd.observe(torch.randn(64, features))
    return rnd


def data(*size: int) -> TensorDict:
    return TensorDict({"next": {"observation": torch.randn(*size, FEATURES)}}, size)


@pytest.mark.parametrize("size", [(32,), (4, 5)])
def test_it_is_the_error_of_the_next_states(size: tuple[int, ...]) -> None:
    rnd, td = distillation(), data(*size)
    out = DistillationLoss(rnd, observe=False)(td)
    x = td["next", "observation"]
    torch.testing.assert_close(out["loss_distillation"], rnd(x).mean())
    torch.testing.assert_close(out["novelty"], rnd.novelty(x).mean())
    assert set(out.keys()) == {"loss_distillation", "novelty"}
    assert out["loss_distillation"].requires_grad
    assert not out["novelty"].requires_grad
    assert set(td.keys(True, True)) == {("next", "observation")}


def test_each_call_adds_its_batch_to_the_moments_first_unless_told_not_to() -> None:
    rnd, td = distillation(), 7 + 2 * data(32)
    expected = copy.deepcopy(rnd)
    expected.observe(td["next", "observation"])
    out = DistillationLoss(rnd).eval()(td)
    for key, value in expected.state_dict().items():
        assert torch.equal(rnd.state_dict()[key], value)
    torch.testing.assert_close(out["loss_distillation"], rnd(td["next", "observation"]).mean())
    DistillationLoss(rnd, observe=False).train()(td)
    assert int(rnd.input_moments.count) == 64 + 32


def test_gradients_reach_all_of_the_predictor_and_nothing_else() -> None:
    rnd = distillation()
    loss, td = DistillationLoss(rnd), data(32)
    td["next", "observation"] = td["next", "observation"].requires_grad_()  # as from an encoder
    loss(td)["loss_distillation"].backward()
    assert td["next", "observation"].grad is None
    learned = {id(p) for p in loss.parameters() if p.grad is not None and p.grad.any()}
    assert learned == {id(p) for p in rnd.predictor.parameters()}
    assert learned == {id(p) for p in loss.parameters() if p.requires_grad}


def test_an_optimiser_of_all_parameters_leaves_the_target() -> None:
    rnd, td = distillation(), data(64)
    loss = DistillationLoss(rnd)
    target = copy.deepcopy(rnd.target.state_dict())
    optimizer = torch.optim.AdamW(loss.parameters(), 1e-2, weight_decay=0.1)
    before = rnd.novelty(td["next", "observation"]).mean()
    for _ in range(100):
        optimizer.zero_grad()
        loss(td)["loss_distillation"].backward()
        optimizer.step()
    assert rnd.novelty(td["next", "observation"]).mean() < 0.3 * before
    assert all(torch.equal(value, target[key]) for key, value in rnd.target.state_dict().items())


def test_masks_weights_and_reductions() -> None:
    rnd, td = distillation(), data(10)
    error = rnd(td["next", "observation"])
    mask = torch.arange(10) < 6
    for shape in ([10], [10, 1]):
        masked = td.clone().set(("collector", "mask"), mask.view(shape))
        masked["next", "observation"][~mask] = torch.nan
        out = DistillationLoss(rnd, observe=False)(masked)
        torch.testing.assert_close(out["loss_distillation"], error[:6].mean())
        expected = rnd.novelty(td["next", "observation"][:6]).mean()
        torch.testing.assert_close(out["novelty"], expected)
    for reduction, value in {"none": error, "sum": error.sum()}.items():
        out = DistillationLoss(rnd, observe=False, reduction=reduction)(td)
        torch.testing.assert_close(out["loss_distillation"], value)
    weights = torch.rand(10)
    weighted = DistillationLoss(rnd, observe=False)(td.clone().set("_weight", weights))
    expected = (weights * error).sum() / weights.sum()
    torch.testing.assert_close(weighted["loss_distillation"], expected)


def test_masked_rows_reach_neither_moments_nor_gradients() -> None:
    rnd, td = distillation(), data(10)
    other = copy.deepcopy(rnd)
    mask = torch.arange(10) < 6
    td["next", "observation"][~mask] = torch.inf
    DistillationLoss(rnd)(td.set(("collector", "mask"), mask))["loss_distillation"].backward()
    DistillationLoss(other)(td[:6].exclude("collector"))["loss_distillation"].backward()
    for key, value in other.state_dict().items():
        torch.testing.assert_close(rnd.state_dict()[key], value)
    for one, two in zip(rnd.predictor.parameters(), other.predictor.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_share_of_the_rows_is_drawn_anew_each_time(weighted: bool) -> None:
    rnd, td = distillation(), data(4, 5)
    mask = torch.arange(20).view(4, 5) < 10
    td.set(("collector", "mask"), mask)
    weights = torch.rand(4, 5) if weighted else torch.ones(4, 5)
    if weighted:
        td.set("_weight", weights)
    error = weights * rnd(td["next", "observation"]).detach()
    options = {"observe": False, "proportion": 0.25}
    draws = []
    for _ in range(30):
        rows = DistillationLoss(rnd, **options, reduction="none")(td)["loss_distillation"].detach()
        drawn = rows != 0
        assert int(drawn.sum()) == 3  # a quarter of the ten that count, rounded up
        assert not drawn[~mask].any()
        torch.testing.assert_close(rows[drawn], error[drawn])
        draws.append(drawn)
    assert torch.stack(draws).any(0)[mask].all()
    torch.manual_seed(1)
    rows = DistillationLoss(rnd, **options, reduction="none")(td)["loss_distillation"]
    torch.manual_seed(1)
    mean = DistillationLoss(rnd, **options)(td)["loss_distillation"]
    torch.testing.assert_close(mean, rows.sum() / weights[rows != 0].sum())
    novelty = rnd.novelty(td["next", "observation"])[mask].mean()  # of all, drawn or not
    torch.testing.assert_close(DistillationLoss(rnd, **options)(td)["novelty"], novelty)


def test_a_batch_without_a_row_that_counts_teaches_nothing() -> None:
    rnd, td = distillation(), data(4).set(("collector", "mask"), torch.zeros(4, dtype=torch.bool))
    for proportion in (1.0, 0.5):
        out = DistillationLoss(rnd, proportion=proportion)(td)
        assert out["loss_distillation"] == 0
        out["loss_distillation"].backward()
    assert not any(p.grad.any() for p in rnd.predictor.parameters())
    assert int(rnd.input_moments.count) == 64


def test_nested_keys() -> None:
    rnd, td = distillation(in_keys=[("agent", "x"), ("agent", "y")]), data(8)
    x = td["next", "observation"]
    moved = TensorDict({"next": {"agent": {"x": x[:, :2], "y": x[:, 2:]}}}, [8])
    loss = DistillationLoss(rnd, observe=False)
    assert loss.in_keys == [("next", "agent", "x"), ("next", "agent", "y")]
    assert loss.out_keys == ["loss_distillation", "novelty"]
    torch.testing.assert_close(loss(moved)["loss_distillation"], rnd(x).mean())
    root = DistillationLoss(rnd, observe=False, in_keys=rnd.in_keys)
    torch.testing.assert_close(root(moved["next"])["loss_distillation"], rnd(x).mean())
    weights = torch.rand(8)
    loss.set_keys(priority_weight=("agent", "weight"))
    out = loss(moved.set(("agent", "weight"), weights))["loss_distillation"]
    torch.testing.assert_close(out, (weights * rnd(x)).sum() / weights.sum())


def test_double_precision() -> None:
    out = DistillationLoss(distillation().double())(data(8))
    assert out["loss_distillation"].dtype == out["novelty"].dtype == torch.float64


def test_the_state_dict_is_the_distillation_s() -> None:
    loss, other = DistillationLoss(distillation()), DistillationLoss(distillation())
    loss(data(32))
    other.load_state_dict(loss.state_dict())
    x = data(8)["next", "observation"]
    assert torch.equal(other.distillation.novelty(x), loss.distillation.novelty(x))


def test_options_and_keys_that_cannot_work_are_refused() -> None:
    for proportion in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigurationError, match=r"proportion in \(0, 1\]"):
            DistillationLoss(distillation(), proportion=proportion)
    with pytest.raises(ConfigurationError, match="reduction to be one of"):
        DistillationLoss(distillation(), reduction="median")
    with pytest.raises(ConfigurationError, match="at least one key, got 'observation'"):
        DistillationLoss(distillation(), in_keys="observation")
    loss = DistillationLoss(distillation())
    with pytest.raises(ValueError, match="foo is not an accepted tensordict key.*priority_weight"):
        loss.set_keys(foo="bar")
    with pytest.raises(ConfigurationError, match="in_keys at construction"):
        loss.in_keys = ["x"]
    with pytest.raises(ConfigurationError, match="out_keys"):
        loss.out_keys = ["x"]


def test_bad_data_is_refused_and_changes_no_moments() -> None:
    loss, td = DistillationLoss(distillation()), data(4)
    with pytest.raises(KeyMismatchError, match=r"reads \('next', 'observation'\)"):
        loss(td["next"])
    td["next", "observation"][2, 1] = torch.nan
    with pytest.raises(NonFiniteError, match="'observation'"):
        loss(td)
    with pytest.raises(ShapeError, match="expected 5 features, got 3"):
        DistillationLoss(distillation(5))(data(4))
    assert int(loss.distillation.input_moments.count) == 64


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="DistillationLoss expects at least one row"):
        DistillationLoss(distillation())(
            TensorDict({"next": {"observation": torch.zeros(0, 3)}}, [0])
        )
