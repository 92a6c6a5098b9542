"""The contract of a generative policy: keys, shapes, types, and whose tensors are whose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from modereg.errors import (
    ConfigurationError,
    KeyMismatchError,
    ShapeError,
)
from tests.policies.made import OBS, SHAPE, data, policy, shift


@pytest.mark.parametrize("size", [(), (5,), (2, 3)])
def test_given_noise_is_decoded(size: tuple[int, ...]) -> None:
    td, noise = data(*size), torch.randn(*size, *SHAPE)
    out = policy()(td.set("noise", noise))
    torch.testing.assert_close(out["action_chunk"], shift(noise, td["observation"]))


def test_missing_noise_is_drawn_from_the_standard_normal() -> None:
    td = data(4000).zero_()
    torch.manual_seed(1)
    chunk = policy()(td)["action_chunk"]
    torch.manual_seed(1)
    assert torch.equal(chunk, torch.randn(4000, *SHAPE))
    assert set(td.keys()) == {"observation", "action_chunk"}
    assert float(chunk.std()) == pytest.approx(1.0, abs=0.02)


def test_keys_may_be_nested_and_several() -> None:
    wrapped = policy(
        lambda noise, a, b: noise * a[..., None] + b[..., None],
        in_keys=[("o", "a"), ("o", "b")],
        noise_key=("o", "w"),
        chunk_key=("o", "chunk"),
    )
    a, b, w = torch.randn(5, 1), torch.randn(5, 1), torch.randn(5, *SHAPE)
    td = wrapped(TensorDict({"o": TensorDict({"a": a, "b": b, "w": w}, [5])}, [5]))
    torch.testing.assert_close(td["o", "chunk"], w * a[..., None] + b[..., None])
    assert wrapped.in_keys == [("o", "a"), ("o", "b"), ("o", "w")]
    assert wrapped.out_keys == [("o", "chunk")]


def test_noise_and_chunk_may_differ_in_shape() -> None:
    padded = policy(lambda noise, _: noise[..., :2], noise_shape=(4, 8))
    assert padded(data(3))["action_chunk"].shape == (3, *SHAPE)


def test_noise_of_the_wrong_shape_is_refused() -> None:
    td = data(3).set("noise", torch.randn(3, 4, 3))
    with pytest.raises(ShapeError, match=r"expected noise of shape \(3, 4, 2\).*got \(3, 4, 3\)"):
        policy()(td)
    with pytest.raises(ShapeError, match="got \\(2, 4, 2\\)"):
        policy().decode_from(data(3), torch.randn(2, *SHAPE))


def test_a_missing_observation_is_named() -> None:
    with pytest.raises(KeyMismatchError, match="policy reads 'observation'.*it has \\['state'\\]"):
        policy()(TensorDict({"state": torch.zeros(2, 3)}, [2]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"in_keys": ["noise"]}, "distinct keys"),
        ({"chunk_shape": (4,)}, "actions, action dimensions"),
        ({"chunk_shape": (0, 2)}, "actions, action dimensions"),
        ({"noise_shape": ()}, "positive sizes"),
        ({"noise_shape": (4, 0)}, "positive sizes"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        policy(**options)


IN_PLACE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "scales the noise": lambda w, o: w.mul_(0.5),
    "clamps the noise": lambda w, o: w.clamp_(-0.5, 0.5) * 0.1,
    "clamps the observation": lambda w, o: w + 0 * o.clamp_(-1, 1).sum(-1)[..., None, None],
    "masks the observation": lambda w, o: w + 0 * o.mul_(0).sum(-1)[..., None, None],
    "takes off the mean": lambda w, o: w + o.sub_(o.mean(-1, keepdim=True))[..., None, :2],
}


def euler(noise: Tensor, observation: Tensor) -> Tensor:
    x = noise
    for _ in range(4):
        x += 0.25 * (observation.mean(-1)[..., None, None] - x)
    return x


@pytest.mark.parametrize("function", [*IN_PLACE.values(), euler], ids=[*IN_PLACE, "Euler"])
def test_a_function_that_works_in_place_changes_nothing_of_the_callers(
    function: Callable[[Tensor, Tensor], Tensor],
) -> None:
    td = data(3).set("noise", torch.randn(3, *SHAPE))
    before = td.clone()
    chunk = policy(function)(td)["action_chunk"].clone()
    assert torch.equal(td["noise"], before["noise"])
    assert torch.equal(td["observation"], before["observation"])
    expected = function(before["noise"].clone(), before["observation"].clone())
    assert torch.equal(chunk, expected)
    assert torch.equal(policy(function)(td)["action_chunk"], expected)


@pytest.mark.parametrize("wrong", [(5, 1), (5, 2), (5,), (5, 3, 3), (1, 3)])
def test_an_observation_of_another_shape_is_refused_even_if_it_broadcasts(
    wrong: tuple[int, ...],
) -> None:
    told = policy(lambda w, o: w + o.sum(-1)[..., None, None], observation_shapes=[(OBS,)])
    value = torch.randn(wrong)
    with pytest.raises(ShapeError, match=r"expected 'observation' of shape \(5, 3\)"):
        told.check_observations([value], [5])
    if wrong[0] == 5:
        with pytest.raises(ShapeError, match=r"one observation \(3,\)"):
            told.decode_from(TensorDict({"observation": value}, [5]), torch.randn(5, *SHAPE))
    told(data(5))


def test_shapes_know_of_histories_and_of_entries_that_are_no_tensors() -> None:
    told = policy(lambda w, o: w, observation_shapes=[(OBS,)], observation_steps=2)
    told.check_observations([torch.zeros(5, 2, OBS)], [5])
    with pytest.raises(ShapeError, match="'observation' with a history of 2 steps"):
        told.check_observations([torch.zeros(5, 1, OBS)], [5])
    told.check_observations(["an instruction"], [5])
    with pytest.raises(ShapeError, match="a shape for each of"):
        policy(observation_shapes=[(3,), (4,)])


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_autocast_changes_the_precision_and_not_the_type_or_the_fingerprint(
    low: torch.dtype,
) -> None:
    torch.manual_seed(0)
    net = nn.Linear(OBS, 2)
    exact = policy(lambda w, o: w + net(o).unsqueeze(-2), module=net)
    fast = policy(lambda w, o: w + net(o).unsqueeze(-2), module=net, autocast=low)
    td, noise = data(64), torch.randn(64, *SHAPE)
    expected, chunk = exact.decode_from(td, noise), fast.decode_from(td, noise)
    assert chunk.dtype == torch.float32
    assert not torch.equal(chunk, expected)
    assert (chunk - expected).abs().max() <= 0.02 * expected.abs().max()
    with pytest.raises(ConfigurationError, match=r"autocast of torch.bfloat16.*got torch.float64"):
        policy(autocast=torch.float64)
    seen = fast.fingerprint()
    fast.autocast = None
    assert fast.fingerprint() == seen
