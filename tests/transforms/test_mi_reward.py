"""MIReward: a chain with known values, the identity of returns, the survival bias, refusals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import AutoResetEnv, AutoResetTransform, SerialEnv, StepCounter, TransformedEnv

from modereg import keys
from modereg.errors import (
    ConfigurationError,
    KeyMismatchError,
    NonFiniteError,
    TerminalObservationError,
)
from modereg.estimators import CategoricalMI, RewardEstimator
from modereg.networks import MLP
from modereg.priors import CategoricalPrior, NormalPrior, Prior
from modereg.testing import CountingEnv
from modereg.transforms import (
    ActionChunk,
    LatentConditioner,
    MIReward,
    TimeLimit,
)

LOG2 = math.log(2)


class ChainPosterior(RewardEstimator):
    """q(z = 0 | s) of a known chain: certain of the code in steps of 1/8 with the count."""

    is_lower_bound = True

    def __init__(self, prior: int | Prior = 2) -> None:
        prior = prior if isinstance(prior, Prior) else CategoricalPrior(prior)
        super().__init__(prior, ["observation"])
        self.calls: list[int] = []

    @property
    def upper_limit(self) -> float:
        return LOG2

    def prob(self, count: Tensor) -> Tensor:
        return 0.5 + count.clamp(0, 4) / 8

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        self.calls.append(tensordict.numel())
        prob = self.prob(tensordict["observation"][..., 0])
        right = tensordict["latent"] == 0
        return torch.where(right, prob, 1 - prob).log() + LOG2

    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        return -self.log_ratio(tensordict)


def ratio(count: int) -> float:
    """l of the right code after that many steps, in units of H(p) = log 2."""
    return math.log(2 * (0.5 + min(count, 4) / 8)) / LOG2


def chain(
    lengths: Sequence[int], execute: int = 1, **options: Any
) -> tuple[TransformedEnv, LatentConditioner]:
    env = TransformedEnv(CountingEnv(lengths), ActionChunk(execute))
    conditioner = LatentConditioner(2)
    env.append_transform(conditioner)
    env.append_transform(MIReward(ChainPosterior(), **options))
    return env, conditioner


def returns(reward: Tensor, steps: Tensor, gamma: float) -> Tensor:
    """Discount one episode ``[T]`` by the environment steps before each decision."""
    before = torch.cat([torch.zeros(1), steps.cumsum(0)[:-1]])
    return (gamma**before * reward).sum()


@pytest.mark.parametrize("execute", [1, 2])
def test_the_values_of_a_known_chain(execute: int):
    gamma, length = 0.9, 4
    seen = list(range(0, length + 1, execute))
    values = [ratio(count) for count in seen]
    at = [gamma ** (execute * i) for i in range(len(values))]
    expected = {
        "dense": sum(d * v for d, v in zip(at, values[1:], strict=False)),
        "difference": gamma**length * values[-1] - values[0],
        "final": gamma**length * values[-1],
    }
    assert expected["final"] == pytest.approx(0.9**4)  # certain in the end: l = 1
    for timing, value in expected.items():
        env, conditioner = chain([length], execute, timing=timing, gamma=gamma)
        with conditioner.force(0):
            data = env.rollout(9)[0]["next"]
        steps = data[keys.STEPS].squeeze(-1).float()
        total = returns(data[keys.MI_REWARD].squeeze(-1), steps, gamma)
        assert float(total) == pytest.approx(value, abs=1e-5)


@st.composite
def episodes(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    """Draw l at the boundaries and the steps between them."""
    size = draw(st.integers(1, 12))
    finite = st.floats(-5, 5)
    values = draw(st.lists(finite, min_size=size + 1, max_size=size + 1))
    steps = draw(st.lists(st.integers(1, 9), min_size=size, max_size=size))
    return values, steps


class Recorded(RewardEstimator):
    """Returns what stands in the observation."""

    is_lower_bound = False
    upper_limit = math.inf

    def __init__(self) -> None:
        super().__init__(CategoricalPrior(4), ["observation"])

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return tensordict["observation"].squeeze(-1)

    sample_loss = log_ratio


@given(episodes(), st.floats(0.5, 1.0), st.sampled_from([None, "symmetric", (-1.5, 2.0)]))
def test_difference_and_final_differ_by_the_start(
    episode: tuple[list[float], list[int]], gamma: float, clamp: Any
):
    values, steps = torch.tensor(episode[0], dtype=torch.float64), torch.tensor(episode[1])
    size = len(steps)
    done = torch.zeros(size, 1, dtype=torch.bool)
    done[-1] = True
    data = TensorDict(
        {
            "observation": values[:-1, None],
            "latent": torch.zeros(size, dtype=torch.int64),
            "next": {
                "observation": values[1:, None],
                "reward": torch.zeros(size, 1, dtype=torch.float64),
                "done": done,
                "terminated": done.clone(),
                keys.STEPS: steps[:, None],
            },
        },
        [size],
    )
    totals = {}
    for timing in ("difference", "final"):
        out = MIReward(Recorded(), timing=timing, gamma=gamma, clamp=clamp)(data.clone())
        mi = out["next", keys.MI_REWARD].squeeze(-1)
        totals[timing] = float(returns(mi, steps.double(), gamma))
    start = values[0].clamp(*clamp) if isinstance(clamp, tuple) else values[0]
    expected = -float(start) / math.log(4)
    assert totals["difference"] - totals["final"] == pytest.approx(expected, abs=1e-9)


def test_dense_pays_for_staying_alive_and_the_others_do_not():
    earned = {}
    for timing in ("dense", "difference", "final"):
        env, conditioner = chain([4, 40], timing=timing, gamma=1.0)
        with conditioner.force(0):
            data = env.rollout(40, break_when_any_done=False)["next"]
        quick = data[keys.MI_REWARD][0, :4].sum()
        earned[timing] = (float(quick), float(data[keys.MI_REWARD][1].sum()))
    assert earned["dense"][1] > 10 * earned["dense"][0]
    for timing in ("difference", "final"):  # both end equally certain of the code
        assert earned[timing][1] == pytest.approx(earned[timing][0], abs=1e-5)


def test_final_reads_the_network_where_episodes_end_only():
    env, _ = chain([3, 50, 4, 50], timing="final", gamma=1.0)
    calls = env.transform[-1].estimator.calls
    env.rollout(4, break_when_any_done=False)
    assert calls == [1, 1]


def test_the_regularised_reward_is_the_sum_and_the_reward_stays():
    env, _ = chain([3, 7], timing="dense", gamma=1.0, coef=0.5)
    data = env.rollout(5, break_when_any_done=False)["next"]
    mi = data[keys.MI_REWARD]
    torch.testing.assert_close(data[keys.REGULARIZED_REWARD], data["reward"] + 0.5 * mi)
    env.transform[-1].coef.fill_(0.0)
    data = env.rollout(5, break_when_any_done=False)["next"]
    assert torch.equal(data[keys.REGULARIZED_REWARD], data["reward"])
    env.transform[-1].unit.fill_(4.0)
    data = env.rollout(5, break_when_any_done=False)["next"]
    assert torch.equal(data[keys.REGULARIZED_REWARD], data["reward"] / 4)
    assert [key.rsplit(".")[-1] for key in env.state_dict()] == ["coef", "unit"]


def test_each_code_is_paid_by_its_own_coefficient():
    env, _ = chain([3, 7, 5, 9], timing="dense", gamma=1.0, coef=[0.5, 2.0])
    data = env.rollout(6, break_when_any_done=False)
    codes, after = data[keys.LATENT], data["next"]
    assert codes.unique().tolist() == [0, 1]
    coef = torch.where(codes == 0, 0.5, 2.0).unsqueeze(-1)
    expected = after["reward"] + coef * after[keys.MI_REWARD]
    torch.testing.assert_close(after[keys.REGULARIZED_REWARD], expected)
    env.transform[-1].coef.copy_(torch.tensor([1.0, 0.0]))  # what is stored is paid anew
    after = env.transform[-1](data)["next"]
    kept = after["reward"] + (codes == 0).unsqueeze(-1) * after[keys.MI_REWARD]
    torch.testing.assert_close(after[keys.REGULARIZED_REWARD], kept)


def test_padding_may_have_any_code():
    env, _ = chain([3, 7], timing="dense", gamma=1.0, coef=[0.5, 2.0])
    data = env.rollout(3)
    data["collector", "mask"] = torch.tensor([[True], [False]]).expand(data.shape)
    data[keys.LATENT][1] = 99
    after = env.transform[-1](data)["next"]
    assert torch.equal(after[keys.REGULARIZED_REWARD][1], after["reward"][1])


@pytest.mark.parametrize("timing", ["dense", "difference", "final"])
def test_the_ratio_is_that_of_the_state_that_a_transition_led_to(timing: str):
    env, conditioner = chain([4], timing=timing, gamma=1.0)
    with conditioner.force(0):
        data = env.rollout(9)[0]
    expected = torch.tensor([ratio(count) for count in (1, 2, 3, 4)])
    torch.testing.assert_close(env.transform[-1].ratio(data), expected)


@pytest.mark.parametrize("coef", [[0.5], [[0.5, 0.5]], [1.0, 2.0, 3.0]])
def test_coefficients_are_one_or_one_for_each_code(coef: Any):
    with pytest.raises(ConfigurationError, match="of one for each discrete code, got shape"):
        MIReward(ChainPosterior(), timing="dense", gamma=1.0, coef=coef)
    with pytest.raises(ConfigurationError, match=r"got shape \(2,\) with NormalPrior"):
        MIReward(ChainPosterior(NormalPrior(2)), timing="dense", gamma=1.0, coef=[0.5, 2.0])


def test_the_clamp_is_in_nats_before_the_division():
    data = {"gamma": 1.0, "timing": "dense"}
    env, conditioner = chain([9], clamp=(-0.1, 0.2), **data)
    with conditioner.force(0):
        assert env.rollout(9)["next", keys.MI_REWARD].max().item() == pytest.approx(0.2 / LOG2)
    with conditioner.force(1):
        assert env.rollout(9)["next", keys.MI_REWARD].min().item() == pytest.approx(-0.1 / LOG2)
    env, conditioner = chain([9], clamp=None, normalize=False, **data)
    with conditioner.force(1):  # the wrong code in the end: log 0
        assert env.rollout(9)["next", keys.MI_REWARD].min().item() == -math.inf
    env, conditioner = chain([9], **data)
    with conditioner.force(1):
        assert env.rollout(9)["next", keys.MI_REWARD].min().item() == pytest.approx(-1.0)


def test_one_code_pays_nothing():
    q = CategoricalMI(MLP(3, 1, ()), 1, in_keys=["observation"])
    env = TransformedEnv(CountingEnv([3]), LatentConditioner(1))
    env.append_transform(MIReward(q, timing="dense", gamma=0.9))
    assert not env.rollout(3)["next", keys.MI_REWARD].any()


# --- refusals


@contextmanager
def truncation_refused() -> Iterator[None]:
    with pytest.raises(ConfigurationError, match=r"TimeLimit\(max_steps, 'terminates'\)"):
        yield


def test_final_with_bootstrapped_truncation_is_refused_wherever_it_shows():
    with truncation_refused():
        MIReward(ChainPosterior(), timing="final", gamma=0.9, time_limit="truncates")
    for limit in (TimeLimit(3, "truncates"), StepCounter(3)):
        env = TransformedEnv(CountingEnv([9]), limit).append_transform(LatentConditioner(2))
        with truncation_refused():
            env.append_transform(MIReward(ChainPosterior(), timing="final", gamma=0.9))
    env = TransformedEnv(CountingEnv([9]), TimeLimit(3, "truncates"))
    data = env.append_transform(LatentConditioner(2)).rollout(3)
    with truncation_refused():
        MIReward(ChainPosterior(), timing="final", gamma=0.9)(data)
    MIReward(ChainPosterior(), timing="difference", gamma=0.9, time_limit="truncates")(data)


def test_final_pays_at_a_limit_that_terminates():
    env = TransformedEnv(CountingEnv([9]), TimeLimit(3, "terminates"))
    conditioner = LatentConditioner(2)
    env.append_transform(conditioner)
    env.append_transform(MIReward(ChainPosterior(), timing="final", gamma=0.9))
    with conditioner.force(0):
        paid = env.rollout(9)["next", keys.MI_REWARD].flatten()
    torch.testing.assert_close(paid, torch.tensor([0.0, 0.0, 0.9 * ratio(3)]))


@pytest.mark.parametrize("outside", [True, False])
def test_another_number_of_codes_than_the_environments_is_refused(outside: bool):
    conditioned = partial(lambda: TransformedEnv(CountingEnv(3), LatentConditioner(5)))
    env = TransformedEnv(SerialEnv(2, conditioned)) if outside else conditioned()
    with pytest.raises(ConfigurationError, match=r"prior \(3 codes .* environment with 5 codes"):
        env.append_transform(MIReward(ChainPosterior(3), timing="dense", gamma=0.9))
    env.close(raise_if_closed=False)


@pytest.mark.parametrize("timing", ["dense", "difference", "final"])
def test_padding_gets_nothing_and_may_hold_anything(timing: str):
    data = chain([6, 9, 13], timing=timing, gamma=0.9)[0].rollout(7, break_when_any_done=False)
    valid = torch.arange(7) < torch.tensor([[7], [4], [1]])
    paid = data["next", keys.MI_REWARD].where(valid.unsqueeze(-1), torch.tensor(0.0))
    reward = data["next", "reward"].where(valid.unsqueeze(-1), torch.tensor(0.0))
    data["observation"][~valid] = data["next", "observation"][~valid] = torch.nan
    data["next", "reward"][~valid] = 0.0
    data["latent"][~valid] = 9
    data["next", "done"][~valid] = True
    data["collector", "mask"] = valid.unsqueeze(-1)
    out = MIReward(ChainPosterior(), timing=timing, gamma=0.9)(data)
    torch.testing.assert_close(out["next", keys.MI_REWARD], paid)
    torch.testing.assert_close(out["next", keys.REGULARIZED_REWARD], reward + paid)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(3, NormalPrior(2)), (NormalPrior(2), CategoricalPrior(3)), (NormalPrior(2), NormalPrior(3))],
)
def test_codes_of_another_kind_than_the_environments_are_refused(given: int | Prior, wanted: Prior):
    env = TransformedEnv(CountingEnv(3), LatentConditioner(given))
    with pytest.raises(ConfigurationError, match="expected codes of the estimator's prior"):
        env.append_transform(MIReward(ChainPosterior(wanted), timing="dense", gamma=0.9))


def test_features_that_are_not_finite_are_refused():
    data = chain([6, 9, 13], timing="dense", gamma=0.9)[0].rollout(4, break_when_any_done=False)
    data["next", "observation"][1, 2, 1] = torch.nan
    with pytest.raises(NonFiniteError, match=r"'observation'.*fills the observation.*with NaN"):
        MIReward(ChainPosterior(), timing="dense", gamma=0.9)(data)


@pytest.mark.parametrize("key", ["latent", ("next", "observation"), ("next", "reward")])
def test_a_missing_key_is_named(key: NestedKey):
    data = chain([6, 9, 13], timing="dense", gamma=0.9)[0].rollout(2).exclude(key)
    name = key if isinstance(key, str) else key[-1]
    with pytest.raises(KeyMismatchError, match=f"MIReward.*reads '{name}'"):
        MIReward(ChainPosterior(), timing="dense", gamma=0.9)(data)


@pytest.mark.parametrize(
    "options",
    [
        {"timing": "sparse"},
        {"time_limit": "none"},
        {"gamma": 1.5},
        {"clamp": (0.5, 1.0)},
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any]):
    with pytest.raises(ConfigurationError, match="expected"):
        MIReward(ChainPosterior(), **{"timing": "dense", "gamma": 0.9, **options})


def test_an_environment_that_resets_itself_is_refused():
    env = AutoResetEnv(CountingEnv([3]), AutoResetTransform())
    with pytest.raises(TerminalObservationError, match="auto_reset=True fills it with NaN"):
        TransformedEnv(
            env, MIReward(ChainPosterior(), timing="dense", gamma=0.9), auto_unwrap=False
        )
