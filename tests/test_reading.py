"""Reading tensordicts and evaluating modules on them."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.modules import ValueOperator

from modereg.errors import KeyMismatchError, NonFiniteError
from modereg.networks import InputNoise
from modereg.reading import evaluate, in_next, require, require_finite, valid_rows


def two_outputs(x: Tensor) -> tuple[Tensor, Tensor]:
    return x + 1, x + 2


@pytest.mark.parametrize(
    "module",
    [
        TensorDictModule(lambda x: x + 2, ["x"], ["y"]),
        TensorDictModule(two_outputs, ["x"], ["other", "y"]),
        TensorDictModule(lambda value: value + 2, {"value": "x"}, ["y"]),
        TensorDictModule(torch.add, ["x"], ["y"], method_kwargs={"other": 2}, method="__call__"),
        TensorDictSequential(TensorDictModule(lambda x: x + 2, ["x"], ["y"])),
        InputNoise(nn.Identity(), 0.0),
    ],
)
def test_evaluate_is_the_module_itself(module: nn.Module) -> None:
    if isinstance(module, InputNoise):
        module = TensorDictModule(module, ["x"], ["y"])
    td = TensorDict({"x": torch.randn(3, 2)}, [3])
    expected = module(td.clone())["y"]
    torch.testing.assert_close(evaluate(module, td, "y"), expected)
    assert set(td.keys()) == {"x"}


def test_evaluate_value_operator() -> None:
    value = ValueOperator(nn.Linear(2, 1), ["x"])
    td = TensorDict({"x": torch.randn(3, 2)}, [3])
    expected = value(td.clone())["state_value"]
    torch.testing.assert_close(evaluate(value, td, "state_value"), expected)


def test_noise_only_where_asked() -> None:
    module = TensorDictModule(InputNoise(nn.Identity(), 1.0), ["x"], ["y"])
    td = TensorDict({"x": torch.zeros(5)}, [5])
    assert (evaluate(module, td, "y") == 0).all()
    assert (evaluate(module, td, "y", noisy=True) != 0).all()
    plain = TensorDictModule(nn.Identity(), ["x"], ["y"])
    assert (evaluate(plain, td, "y", noisy=True) == 0).all()


def test_require_names_reader_key_and_what_is_there() -> None:
    td = TensorDict({"a": TensorDict({"b": torch.zeros(2)}, [2])}, [2])
    assert require(td, ("a", "b"), "who") is td["a", "b"]
    with pytest.raises(KeyMismatchError, match="who reads 'c'.*lacks.*'b'"):
        require(td, "c", "who")
    module = TensorDictModule(nn.Identity(), ["x"], ["y"])
    with pytest.raises(KeyMismatchError, match="the critic reads 'x'"):
        evaluate(module, td, "y", reader="the critic")


def test_keys_in_next() -> None:
    assert in_next("x") == ("next", "x")
    assert in_next(("agent", "x")) == ("next", "agent", "x")


def test_rows_that_no_mask_calls_padding() -> None:
    first = torch.tensor([[True, True, False], [True, False, False]])
    second = torch.tensor([[True, False, True], [True, True, True]])
    td = TensorDict({"other": second.unsqueeze(-1)}, [2, 3])
    assert valid_rows(td) is None
    td["collector", "mask"] = first
    assert torch.equal(valid_rows(td), first)
    assert torch.equal(valid_rows(td, [("collector", "mask"), "other", "none"]), first & second)


def _batch() -> TensorDict:
    torch.manual_seed(0)
    entries = {"reward": torch.randn(64, 12, 1), "number": torch.arange(768).view(64, 12)}
    return TensorDict({"next": TensorDict(entries, [64, 12])}, [64, 12])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_named(value: float) -> None:
    """Infinities of both signs too, whose sum is not a number."""
    batch = _batch()
    reward = batch["next", "reward"]
    names = [("next", "reward"), ("next", "number")]
    require_finite(batch, names, "iteration 3")
    reward[5, 3] = value
    sentence = (
        r"\('next', 'reward'\) in iteration 3, got .* in 1 of 768 rows, first in row \[5, 3\]"
    )
    with pytest.raises(NonFiniteError, match=sentence):
        require_finite(batch, names, "iteration 3")
    reward[6, 0] = -value
    with pytest.raises(NonFiniteError, match=r"in 2 of 768 rows, first in row \[5, 3\]"):
        require_finite(batch, names, "iteration 3")


def test_large_values_and_rows_that_do_not_count_may_be_what_they_are() -> None:
    batch = _batch()
    batch["next", "reward"][:] = 3e38  # finite, and their sum is not
    require_finite(batch, [("next", "reward")], "a batch")
    batch["next", "reward"][2] = math.nan
    valid = torch.ones(64, 12, dtype=torch.bool)
    with pytest.raises(NonFiniteError, match=r"in 12 of 768 rows, first in row \[2, 0\]"):
        require_finite(batch, [("next", "reward")], "a batch", valid=valid)
    valid[2] = False
    require_finite(batch, [("next", "reward")], "a batch", valid=valid)


def test_only_a_missing_entry_is_an_error_where_there_is_nothing_to_sum() -> None:
    require_finite(_batch()[:0], [("next", "reward")], "a batch")
    require_finite(_batch(), [("next", "number")], "a batch")
    with pytest.raises(KeyMismatchError, match="a batch reads 'other'"):
        require_finite(_batch(), ["other"], "a batch")
