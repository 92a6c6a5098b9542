"""The battery over every transform in every context, and its own sharpness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from tensordict import NestedKey, TensorDictBase
from torch import nn
from torchrl.data import Composite, Unbounded
from torchrl.envs import Transform, TransformedEnv

from modereg.estimators import CategoricalMI
from modereg.networks import MLP
from modereg.testing import (
    CONTEXTS,
    Context,
    CountingEnv,
    TinyPolicy,
    check_transform,
    check_transformed_env,
)
from modereg.transforms import (
    ActionChunk,
    History,
    LatentConditioner,
    MIReward,
    NoiseAction,
    TimeLimit,
)

SINGLE, DOUBLE = torch.float32, torch.float64
NESTED = {
    "observation_key": ("agent", "state", "position"),
    "action_key": ("agent", "motor"),
    "reward_key": ("agent", "pay"),
}


def estimator(
    dtype: torch.dtype, feature: NestedKey = "history", latent: NestedKey = "latent"
) -> CategoricalMI:
    torch.manual_seed(5)
    network = MLP(3 * 6, 4, (16,)).to(dtype)
    return CategoricalMI(network, 4, in_keys=[feature], latent_key=latent)


def steered(dtype: torch.dtype) -> list[Transform]:
    return [ActionChunk(4, gamma=0.9), NoiseAction(TinyPolicy(3, (4, 2), dtype=dtype))]


def in_subspace(dtype: torch.dtype) -> list[Transform]:
    basis = torch.linalg.qr(torch.eye(8, 3, dtype=dtype) + 0.1)[0]
    return [ActionChunk(4), NoiseAction(TinyPolicy(3, (4, 2), dtype=dtype), basis)]


def rewarded(timing: str, dtype: torch.dtype) -> list[Transform]:
    reward = MIReward(estimator(dtype), timing=timing, gamma=0.9, coef=0.5)
    return [*steered(dtype), History(length=5), LatentConditioner(4), reward]


def limited(dtype: torch.dtype) -> list[Transform]:
    return [TimeLimit(5, "terminates", dtype=dtype), ActionChunk(4)]


CHAINS: dict[str, Callable[[torch.dtype], Transform | Sequence[Transform]]] = {
    "latent_conditioner": lambda dtype: LatentConditioner(4),
    "action_chunk": lambda dtype: ActionChunk(3, offset=1, horizon=5, gamma=0.9),
    "noise_action": steered,
    "noise_action_basis": in_subspace,
    "history": lambda dtype: History(length=5),
    "time_limit": limited,
    "mi_reward_dense": partial(rewarded, "dense"),
    "mi_reward_difference": partial(rewarded, "difference"),
    "mi_reward_final": partial(rewarded, "final"),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", CHAINS)
def test_every_transform_in_every_context(name: str, context: Context):
    dtype = DOUBLE if context == "float64" else SINGLE
    if name == "time_limit" and context == "gymnasium_same_step":
        return  # refused on attaching: tests/transforms/test_time_limit.py
    check_transform(partial(CHAINS[name], dtype), contexts=[context])


def nested_chain() -> list[Transform]:
    observation, action, reward = NESTED.values()
    policy = TinyPolicy(3, (4, 2), observation_keys=[observation])
    code, features, past = ("skill", "code"), ("skill", "features"), ("memory", "past")
    steps = ("info", "steps")
    return [
        TimeLimit(6, "terminates", elapsed_key=("clock", "elapsed")),
        ActionChunk(
            4,
            action_key=action,
            reward_key=reward,
            steps_key=steps,
            executed_key=("info", "executed"),
            clipped_key=("info", "clipped"),
        ),
        NoiseAction(policy, action_key=action, chunk_key=("info", "chunk")),
        History([observation], past, length=5),
        LatentConditioner(4, code, features),
        MIReward(
            estimator(SINGLE, past, code),
            timing="difference",
            gamma=0.9,
            reward_key=reward,
            mi_key=("agent", "mi"),
            regularized_key=("agent", "regularized"),
            steps_key=steps,
        ),
    ]


@pytest.mark.parametrize("context", ["batched", "composed", "serial_inside", "serial_outside"])
def test_nested_keys(context: Context):
    make_env = partial(CountingEnv, (3, 7, 4), **NESTED)
    check_transform(nested_chain, make_env=make_env, contexts=[context])


def whole_chain() -> list[Transform]:
    return rewarded("difference", SINGLE)


def worker_chain() -> list[Transform]:
    return [*steered(SINGLE), History(length=5), LatentConditioner(4)]


def test_in_other_processes():
    check_transform(whole_chain, contexts=["parallel_outside"], steps=4)
    check_transform(worker_chain, contexts=["parallel_inside"], steps=4)


class _Noisy(Transform):
    """Adds noise to the observation, and holds a parameter."""

    def __init__(self, parameter: bool) -> None:
        super().__init__(in_keys=["observation"], out_keys=["observation"])
        self.weight = nn.Parameter(torch.zeros(())) if parameter else None

    def _apply_transform(self, obs: torch.Tensor) -> torch.Tensor:
        return obs + (0.0 if self.weight is not None else 1.0)

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return self._call(tensordict_reset)


def test_the_battery_catches_parameters_and_recomputation():
    with pytest.raises(AssertionError, match="holds parameters"):
        check_transform(partial(_Noisy, True), contexts=["batched"])
    with pytest.raises(AssertionError, match="as a module on a rollout gives other data"):
        check_transform(partial(_Noisy, False), contexts=["batched"])


class _LyingSpec(History):
    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        observation_spec["history"] = Unbounded((*observation_spec.shape, 2))
        return observation_spec


def test_the_battery_catches_a_lying_spec_and_data_from_after_the_end():
    with pytest.raises(AssertionError, match="in context batched, specs and data disagree"):
        check_transform(lambda: _LyingSpec(length=5), contexts=["batched"])
    env = TransformedEnv(CountingEnv([2, 9]))

    def overrun(td: torch.Tensor) -> torch.Tensor:
        return torch.full_like(td, torch.nan)

    class Poison(Transform):
        def _call(self, td: TensorDictBase) -> TensorDictBase:
            return td.set("observation", overrun(td["observation"]))

        _reset = Transform._reset

    with pytest.raises(AssertionError, match="not finite"):
        check_transformed_env(env.append_transform(Poison()))
