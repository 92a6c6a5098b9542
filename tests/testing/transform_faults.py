"""Wrong rewards, chunks and other transforms, each with the check that has to notice it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Composite
from torchrl.envs import Transform

from modereg.estimators import CategoricalMI
from modereg.networks import MLP
from modereg.testing import TinyPolicy, check_transform
from modereg.testing.starts import check_starts
from modereg.transforms import ActionChunk, History, LatentConditioner, MIReward, NoiseAction
from tests.testing.chunks import check_chunk
from tests.testing.faults import Fault
from tests.testing.rewards import check_reward

__all__ = ["TRANSFORM_FAULTS", "chain"]


# --- the reward


class ResetObservation(MIReward):
    """Pays for what the row after it starts with, which is a reset behind the end of an episode."""

    def _reward(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> Tensor:
        following = next_tensordict.copy()
        for key in self.estimator.in_keys:
            after = following.get(key).clone()
            if tensordict.ndim and len(after) > 1:
                after[..., :-1, :] = tensordict.get(key)[..., 1:, :]
            following.set(key, after)
        return super()._reward(tensordict, following)


class RootObservation(MIReward):
    """Pays for the state in which a decision was taken instead of the one that it led to."""

    def _reward(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> Tensor:
        following = next_tensordict.copy().update(tensordict.select(*self.estimator.in_keys))
        return super()._reward(tensordict, following)


class BothFromNext(MIReward):
    """Takes l_t from ``next`` too."""

    def _reward(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> Tensor:
        current = tensordict.copy().update(next_tensordict.select(*self.estimator.in_keys))
        return super()._reward(current, next_tensordict)


class DroppedGamma(MIReward):
    def __init__(self, *args: Any, gamma: float, **options: Any) -> None:
        super().__init__(*args, gamma=1.0, **options)


class GammaOfOneStep(MIReward):
    def _num_steps(self, tensordict: TensorDictBase, dtype: torch.dtype) -> int:
        return 1


class PaidAtTruncation(MIReward):
    def _terminal(self, tensordict: TensorDictBase) -> Tensor:
        return tensordict.get("done").view(tensordict.batch_size)


class PaidEverywhere(MIReward):
    def _terminal(self, tensordict: TensorDictBase) -> Tensor:
        return torch.ones_like(super()._terminal(tensordict))


class _Adjusted(MIReward):
    """Changes both rewards after the right ones were written."""

    def adjust(self, following: TensorDictBase) -> None:
        raise NotImplementedError

    @torch.no_grad()
    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        super()._step(tensordict, next_tensordict)
        self.adjust(next_tensordict)
        return next_tensordict


class CoefficientTwice(_Adjusted):
    def adjust(self, following: TensorDictBase) -> None:
        mixed = following["reward"] + self.coef.square() * following["mi_reward"]
        following.set("regularized_reward", mixed)


class CoefficientOnIntrinsic(_Adjusted):
    def adjust(self, following: TensorDictBase) -> None:
        following.set("mi_reward", self.coef * following["mi_reward"])


class RewardLeftOut(_Adjusted):
    def adjust(self, following: TensorDictBase) -> None:
        following.set("regularized_reward", self.coef * following["mi_reward"])


class Overwriting(_Adjusted):
    def adjust(self, following: TensorDictBase) -> None:
        following.set("reward", following["regularized_reward"])


class LostDimension(_Adjusted):
    def adjust(self, following: TensorDictBase) -> None:
        following.set("mi_reward", following["mi_reward"].squeeze())


class SinglePrecisionReward(_Adjusted):
    def adjust(self, following: TensorDictBase) -> None:
        following.set("regularized_reward", following["regularized_reward"].to(torch.float32))


class OneSidedClamp(MIReward):
    def _clamp_bounds(self) -> tuple[float, float]:
        return -self.estimator.upper_limit, 0.0


class NoClamp(MIReward):
    def _clamp_bounds(self) -> tuple[float, float]:
        return -float("inf"), float("inf")


class NoScale(MIReward):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, normalize=False, **options)


class CopiedEstimator(MIReward):
    def __init__(self, estimator: CategoricalMI, **options: Any) -> None:
        super().__init__(copy.deepcopy(estimator), **options)


class CopiedWithCollector(MIReward):
    """Copies the estimator in a deepcopy, as a collector makes one of its ``postproc``."""

    def __deepcopy__(self, memo: dict[int, Any]) -> MIReward:
        memo[id(self.estimator)] = copy.deepcopy(self.estimator, {})
        return super().__deepcopy__(memo)


class FixedCoefficient(MIReward):
    @torch.no_grad()
    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        self.coef.fill_(0.5)
        return super()._step(tensordict, next_tensordict)


class SilentNaN(MIReward):
    def _ratio(self, source: TensorDictBase, latent: Tensor) -> Tensor:
        known = source.apply(
            lambda value: value.nan_to_num() if value.is_floating_point() else value
        )
        return super()._ratio(known, latent)


# --- chunks


class MeanOverSteps(ActionChunk):
    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        out = super()._step(tensordict, next_tensordict)
        return out.set("reward", out["reward"] / out[self.steps_key])


class LastReward(ActionChunk):
    """Keeps the first step's reward alone."""

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        first = next_tensordict["reward"].clone()
        return super()._step(tensordict, next_tensordict).set("reward", first)


class UndiscountedChunk(ActionChunk):
    def __init__(self, execute: int, offset: int = 0, gamma: float = 1.0) -> None:
        super().__init__(execute, offset, 1.0)


class SkippedActionsPlayed(ActionChunk):
    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get(self.action_key)
        return super()._inv_call(tensordict.set(self.action_key, action.roll(self.offset, -2)))


class StepsOfTheWholeChunk(ActionChunk):
    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        out = super()._step(tensordict, next_tensordict)
        return out.set(self.steps_key, torch.full_like(out[self.steps_key], self.execute))


class FirstObservation(ActionChunk):
    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        first = next_tensordict["observation"].clone()
        return super()._step(tensordict, next_tensordict).set("observation", first)


# --- in TorchRL


class HoldsItsNetwork(MIReward):
    def __init__(self, estimator: CategoricalMI, **options: Any) -> None:
        super().__init__(estimator, **options)
        self.network = estimator


class NoSpec(MIReward):
    def transform_reward_spec(self, reward_spec: Composite) -> Composite:
        return reward_spec


class RandomReward(_Adjusted):
    def adjust(self, following: TensorDictBase) -> None:
        noise = 0.1 * torch.randn_like(following["mi_reward"])
        following.set("mi_reward", following["mi_reward"] + noise)


class DoublePrecision(_Adjusted):
    def adjust(self, following: TensorDictBase) -> None:
        following.set("mi_reward", following["mi_reward"].to(torch.float64))


class HistoryBeyondTheEnd(History):
    """Keeps the window in an attribute and clears it when all rows are reset at once."""

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        fresh = super()._reset(tensordict, tensordict_reset)
        return fresh.set("history", self._kept) if "_reset" in tensordict else fresh

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        out = super()._step(tensordict, next_tensordict)
        self.__dict__["_kept"] = out["history"]
        return out


def chain(
    reward: type[MIReward] = MIReward, history: type[History] = History
) -> Sequence[Transform]:
    """Return chunks, noise, history, codes and reward, from the inside out."""
    torch.manual_seed(5)
    estimator = CategoricalMI(MLP(3 * 6, 4, (16,)), 4)
    return [
        ActionChunk(4, gamma=0.9),
        NoiseAction(TinyPolicy(3, (4, 2))),
        history(length=5),
        LatentConditioner(4),
        reward(estimator, timing="difference", gamma=0.9, coef=0.5),
    ]


_REWARDS: list[tuple[type[MIReward], str]] = [
    (ResetObservation, "off by up to"),
    (RootObservation, "off by up to"),
    (BothFromNext, "timing='difference'.* off by up to"),
    (DroppedGamma, "timing='difference'.* off by up to"),
    (GammaOfOneStep, "timing='difference'.* off by up to"),
    (PaidAtTruncation, "was truncated is paid"),
    (PaidEverywhere, "timing='final'.* off by up to"),
    (CoefficientTwice, "'regularized_reward' is off by up to"),
    (CoefficientOnIntrinsic, "'mi_reward' is off by up to"),
    (RewardLeftOut, "'regularized_reward' is off by up to"),
    (Overwriting, "were overwritten"),
    (LostDimension, "'mi_reward' is torch.float32 of shape"),
    (SinglePrecisionReward, "torch.float32 .* for rewards that are torch.float64"),
    (OneSidedClamp, "off by up to"),
    (NoClamp, "off by up to"),
    (NoScale, "off by up to"),
    (CopiedEstimator, "after a step of the optimiser, 'mi_reward' is off"),
    (CopiedWithCollector, "after a step of the optimiser and a deepcopy, 'mi_reward' is off"),
    (FixedCoefficient, "coef changed to 0.0"),
    (SilentNaN, "NaN among the features of an end is not noticed"),
]
_CHUNKS: list[tuple[type[ActionChunk], str]] = [
    (MeanOverSteps, "where the discounted sum of its steps is"),
    (LastReward, "where the discounted sum of its steps is"),
    (UndiscountedChunk, "gamma=0.5, .* where the discounted sum of its steps is"),
    (SkippedActionsPlayed, "offset=1"),
    (StepsOfTheWholeChunk, "reports"),
    (FirstObservation, "not that of its last step"),
]
_CHAINS: list[tuple[type[Transform], Callable[[], Sequence[Transform]], str]] = [
    (HoldsItsNetwork, partial(chain, HoldsItsNetwork), "holds parameters"),
    (NoSpec, partial(chain, NoSpec), "specs and data disagree"),
    (RandomReward, partial(chain, RandomReward), "gives other data than"),
    (DoublePrecision, partial(chain, DoublePrecision), "specs and data disagree"),
]

TRANSFORM_FAULTS = [
    *(Fault(k.__name__, partial(check_reward, k), "check_reward", s) for k, s in _REWARDS),
    *(Fault(k.__name__, partial(check_chunk, k), "check_chunk", s) for k, s in _CHUNKS),
    *(
        Fault(
            kind.__name__,
            partial(check_transform, make, contexts=["batched"]),
            "check_transform",
            sentence,
        )
        for kind, make, sentence in _CHAINS
    ),
    Fault(
        "HistoryBeyondTheEnd",
        partial(check_starts, partial(chain, history=HistoryBeyondTheEnd)),
        "check_starts",
        "has other values under 'history'",
    ),
]
