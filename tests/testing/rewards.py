"""What the intrinsic reward pays, against values computed one transition at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.envs import Transform

from modereg import keys
from modereg.errors import ConfigurationError, NonFiniteError
from modereg.estimators import CategoricalMI, RewardEstimator
from modereg.priors import CategoricalPrior
from modereg.testing._expect import expect

__all__ = ["check_reward"]

Timing = Literal["dense", "difference", "final"]
MakeReward = Callable[..., Transform]

_CODES, _FEATURES, _GAMMA, _COEF = 3, 4, 0.9, 0.5
_TIMINGS: tuple[Timing, ...] = ("dense", "difference", "final")


def check_reward(make_reward: MakeReward) -> None:
    """Check that a reward pays as :class:`~modereg.transforms.MIReward` says it does.

    Transitions ``[2, 6]`` hold decisions of one to three steps, an end within a row with the first
    observation of the next episode behind it, features that make the ratio exceed the clamp on
    both sides, and a skewed prior. For every timing, with the clamp and the scale as they are by
    default, the two rewards must be those of the definition; in batches of any shape, in float64
    too; the rest of the data must stay as it is. ``coef`` may be changed at any time, parameters of
    the estimator too, also after a deepcopy, as collectors make one. ``"final"`` pays nothing where
    an episode was truncated, or refuses. Features that are not finite raise
    :class:`~modereg.errors.NonFiniteError`.

    Args:
        make_reward: called as ``MIReward(estimator, timing=..., gamma=..., coef=...)``.

    Raises:
        AssertionError: with a sentence that says what is broken.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for timing in _TIMINGS:
            for dtype in (torch.float32, torch.float64):
                _check_payments(make_reward, timing, dtype)
            _check_coefficient(make_reward, timing)
            _check_current(make_reward, timing)
            _check_finite(make_reward, timing)
        _check_truncation(make_reward)


def _estimator(dtype: torch.dtype = torch.float32) -> CategoricalMI:
    prior = CategoricalPrior(torch.tensor([0.6, 0.3, 0.1]))
    return CategoricalMI(nn.Linear(_FEATURES, _CODES).to(dtype), prior)


def _made(make_reward: MakeReward, estimator: RewardEstimator, timing: Timing) -> Transform:
    return make_reward(estimator, timing=timing, gamma=_GAMMA, coef=_COEF)


def _transitions(dtype: torch.dtype = torch.float32) -> TensorDict:
    """Return two rows of six transitions, in which an episode ends after three and after five."""
    seen = 6.0 * torch.randn(2, 7, _FEATURES, dtype=dtype)
    after = seen[:, 1:].clone()
    done = torch.zeros(2, 6, 1, dtype=torch.bool)
    done[0, 2] = done[1, 4] = done[:, -1] = True
    after[done.squeeze(-1)] = 6.0 * torch.randn(int(done.sum()), _FEATURES, dtype=dtype)
    latent = torch.arange(12).view(2, 6) % _CODES
    data = TensorDict({keys.HISTORY: seen[:, :-1], keys.LATENT: latent}, [2, 6])
    data["next"] = {
        keys.HISTORY: after,
        keys.REWARD: torch.randn(2, 6, 1, dtype=dtype),
        keys.STEPS: torch.arange(12).view(2, 6, 1) % 3 + 1,
        "done": done,
        "terminated": done.clone(),
    }
    return data


@torch.no_grad()
def _payments(estimator: RewardEstimator, timing: Timing, data: TensorDict) -> Tensor:
    """Return what each transition of a flat batch ``[N]`` has to pay, ``[N]``."""
    limit, paid = estimator.upper_limit, []
    for row in data:
        latent = row[keys.LATENT]
        pair = []
        for place in (row, row["next"]):
            seen = TensorDict({keys.HISTORY: place[keys.HISTORY], keys.LATENT: latent}, [])
            ratio = min(max(float(estimator.log_ratio(seen)), -limit), limit)
            pair.append(ratio / estimator.scale)
        discount = _GAMMA ** int(row["next", keys.STEPS])
        ended = bool(row["next", "done"])
        value = {
            "dense": pair[1],
            "difference": discount * pair[1] - pair[0],
            "final": discount * pair[1] * ended,
        }
        paid.append(value[timing])
    return torch.tensor(paid, dtype=torch.float64)


def _expect_paid(
    reward: Transform, data: TensorDict, wanted: Tensor, coef: float, words: str
) -> None:
    """Compare both rewards with those wanted, ``[*B]``, and the rest with what was given."""
    after, extrinsic = reward(data.clone()), data["next", keys.REWARD]
    intrinsic = wanted.view_as(extrinsic)
    values = {
        keys.MI_REWARD: intrinsic,
        keys.REGULARIZED_REWARD: extrinsic + coef * intrinsic,
    }
    for name, value in values.items():
        paid = after["next", name]
        expect(
            paid.shape == extrinsic.shape and paid.dtype == extrinsic.dtype,
            f"{words}, {name!r} is {paid.dtype} of shape {tuple(paid.shape)} for rewards that are "
            f"{extrinsic.dtype} of shape {tuple(extrinsic.shape)}",
        )
        worst = float((paid - value).abs().max()) if paid.numel() else 0.0
        expect(
            worst <= 1e-4,
            f"{words}, {name!r} is off by up to {worst:.4g} from what the definition gives",
        )
    names = data.keys(True, True)
    changed = [name for name in names if not torch.equal(data.get(name), after.get(name))]
    expect(not changed, f"{words}, {changed} were overwritten")


def _check_payments(make_reward: MakeReward, timing: Timing, dtype: torch.dtype) -> None:
    estimator, data = _estimator(dtype), _transitions(dtype)
    reward = _made(make_reward, estimator, timing)
    flat = data.reshape(-1)
    wanted = _payments(estimator, timing, flat)
    batches = {
        "flat": (flat, wanted),
        "two-dimensional": (data, wanted.view(2, 6)),
        "of one": (flat[2:3], wanted[2:3]),
        "without dimensions": (flat[2], wanted[2]),
        "that is empty": (flat[:0], wanted[:0]),
    }
    for words, (batch, values) in batches.items():
        _expect_paid(reward, batch, values, _COEF, f"with timing={timing!r} in a batch {words}")


def _check_coefficient(make_reward: MakeReward, timing: Timing) -> None:
    estimator, data = _estimator(), _transitions().reshape(-1)
    reward, wanted = _made(make_reward, estimator, timing), _payments(estimator, timing, data)
    for coef in (0.0, 2.0):
        reward.coef.fill_(coef)
        words = f"with timing={timing!r} and coef changed to {coef}"
        _expect_paid(reward, data, wanted, coef, words)


def _check_current(make_reward: MakeReward, timing: Timing) -> None:
    estimator, data = _estimator(), _transitions().reshape(-1)
    reward = _made(make_reward, estimator, timing)
    copied = copy.deepcopy(reward)
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.add_(torch.randn_like(parameter))
    wanted = _payments(estimator, timing, data)
    for words, transform in (("", reward), (" and a deepcopy", copied)):
        words = f"with timing={timing!r} after a step of the optimiser{words}"
        _expect_paid(transform, data, wanted, _COEF, words)


def _check_finite(make_reward: MakeReward, timing: Timing) -> None:
    reward, data = _made(make_reward, _estimator(), timing), _transitions().reshape(-1)
    data["next", keys.HISTORY][2] = torch.nan
    try:
        reward(data)
    except NonFiniteError:
        return
    raise AssertionError(f"with timing={timing!r}, NaN among the features of an end is not noticed")


def _check_truncation(make_reward: MakeReward) -> None:
    """Check that "final" pays nothing where the value of the last state goes on."""
    reward, data = _made(make_reward, _estimator(), "final"), _transitions().reshape(-1)
    data["next", "terminated"] = torch.zeros_like(data["next", "terminated"])
    data["next", "truncated"] = data["next", "done"].clone()
    try:
        paid = reward(data)["next", keys.MI_REWARD]
    except ConfigurationError:
        return
    expect(
        not bool(paid.any()),
        "with timing='final' an episode that was truncated is paid, which counts again through the "
        "value of its last state",
    )
