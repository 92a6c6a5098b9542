"""The probe refuses what cannot be steered, and leaves a policy as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from modereg.errors import (
    ConfigurationError,
    NonFiniteError,
    ShapeError,
    StochasticSamplerError,
)
from modereg.policies import (
    freeze,
    probe_policy,
)
from tests.policies.made import OBS, SHAPE, data, policy


def test_a_stochastic_sampler_is_refused_with_the_fix() -> None:
    with pytest.raises(StochasticSamplerError, match="deterministic sampler.*DDIMScheduler"):
        policy(lambda noise, _: noise + 0.01 * torch.randn_like(noise), example=data(2))
    dropout = nn.Dropout(0.5)
    with pytest.raises(StochasticSamplerError, match=r"\.eval\(\)"):
        policy(lambda noise, _: dropout(noise), example=data(2))
    dropout.eval()
    policy(lambda noise, _: dropout(noise), example=data(2))


def test_a_wrong_chunk_and_a_non_finite_one_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"of shape \(2, 4, 2\), got Tensor of shape \(2, 3, 2\)"):
        policy(lambda noise, _: noise[:, 1:], example=data(2))
    with pytest.raises(NonFiniteError, match="non-finite chunk"):
        policy(lambda noise, _: noise / 0, example=data(2))


def test_the_probe_leaves_the_random_state_alone() -> None:
    wrapped, td, before = policy(), data(2), torch.random.get_rng_state()
    probe_policy(wrapped, td)
    assert torch.equal(torch.random.get_rng_state(), before)


class Normed(nn.Module):
    """A policy with batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(OBS)

    def forward(self, noise: Tensor, observation: Tensor) -> Tensor:
        return noise + self.norm(observation)[..., None, :2]


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_batch_norm_in_train_mode_is_refused_with_the_way_out_and_left_as_it_was(
    rows: int,
) -> None:
    net = Normed()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ConfigurationError, match="freeze|Expected more than 1 value per channel"):
        policy(net, example=data(rows))
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    made = policy(freeze(net), example=data(rows))
    assert not any(parameter.requires_grad for parameter in made.parameters())


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_rows_that_look_at_their_batch_are_refused(rows: int) -> None:
    with pytest.raises(ConfigurationError, match="first row changes by .*freeze"):
        policy(lambda noise, _: noise - noise.mean(0), example=data(rows))
    td = data(2, 3)
    with pytest.raises(ConfigurationError, match="first row changes by"):
        policy(lambda w, o: w - o.flatten(0, -2).mean(0)[:2], example=td)
    policy(example=data())  # no batch, no rows to depend on


class Counting(nn.Module):
    """A policy that counts its calls where it is saved, or notes them where it is not."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("cache", torch.zeros(()), persistent=False)

    def forward(self, noise: Tensor, observation: Tensor) -> Tensor:
        if self.how == "buffer":
            self.calls += 1
        elif self.how == "new buffer":
            self.calls = self.calls + 1
        elif self.how == "parameter":
            self.weight.data.mul_(1.0)
            with torch.no_grad():
                self.weight.add_(0.0)
        else:
            self.cache += 1
        return noise


@pytest.mark.parametrize("how", ["buffer", "new buffer", "parameter"])
def test_a_policy_that_changes_itself_is_refused(how: str) -> None:
    with pytest.raises(ConfigurationError, match="stays as it is.*changes .*freeze"):
        policy(Counting(how), example=data(3))
    policy(Counting("a cache that is not saved"), example=data(3))


def test_a_buffer_that_the_next_decode_writes_over_is_refused() -> None:
    buffer = torch.zeros(64, *SHAPE)

    def reuses(noise: Tensor, _: Tensor) -> Tensor:
        return torch.mul(noise, 2.0, out=buffer[: len(noise)])

    with pytest.raises(ConfigurationError, match="the next decode writes over.*clone"):
        policy(reuses, example=data(3))


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (lambda w, o: w + nn.Linear(OBS, 2).double()(o).unsqueeze(-2), "same dtype"),
        (lambda w: w, "positional argument"),
        (lambda w, o: w + o[:, :, 0], "too many indices"),
    ],
)
def test_a_failure_is_one_sentence_with_types_and_shapes(function: Any, cause: str) -> None:
    sentence = rf"_FunctionPolicy failed on noise torch.float32 \[3, 4, 2\].*\[3, 3\].*{cause}"
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        policy(function, example=data(3))
    assert "\n" not in str(caught.value)


def test_the_first_probe_tells_shapes_that_nobody_told() -> None:
    made = policy(lambda w, o: w + o.sum(-1)[..., None, None], example=data(3))
    with pytest.raises(ShapeError, match=r"one observation \(3,\)"):
        made(TensorDict({"observation": torch.randn(5, 1)}, [5]))
    made(data(5))
    history = TensorDict({"observation": torch.randn(3, 2, OBS)}, [3])
    stacked = policy(lambda w, o: w, observation_steps=2, example=history)
    assert stacked.observation_shapes == [(OBS,)]


def test_rounding_in_low_precision_is_not_taken_for_chance() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(OBS, 512), nn.ReLU(), nn.Linear(512, 2)).bfloat16()
    td = data(7, dtype=torch.bfloat16)
    policy(lambda w, o: w.bfloat16() + net(o.bfloat16()).unsqueeze(-2), module=net, example=td)
