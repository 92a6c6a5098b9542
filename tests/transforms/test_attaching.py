"""Entries that a transform would replace, and orders that change what transforms mean."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from tensordict import NestedKey
from torchrl.envs import Compose, EnvBase, SerialEnv, StepCounter, Transform, TransformedEnv

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.estimators import CategoricalMI
from modereg.networks import MLP
from modereg.novelty import RandomNetworkDistillation
from modereg.testing import CountingEnv, TinyPolicy
from modereg.transforms import (
    ActionChunk,
    History,
    LatentConditioner,
    MIReward,
    NoiseAction,
    NoveltyReward,
    ObservationStack,
    TimeLimit,
)

BASIS = torch.eye(8)[:, :2]


def policy() -> TinyPolicy:
    return TinyPolicy(3, (4, 2))


def mi_reward() -> MIReward:
    return MIReward(CategoricalMI(MLP(9, 2, (4,)), 2), timing="dense", gamma=1.0)


def novelty_reward() -> NoveltyReward:
    distillation = RandomNetworkDistillation.mlp(3, 2, (4,))
    return NoveltyReward(distillation, total_key=keys.EXPLORATION_REWARD)


WRITTEN: list[tuple[NestedKey, str, Callable[[], list[Transform]]]] = [
    (keys.STEPS, "ActionChunk another steps_key", lambda: [ActionChunk(4)]),
    (keys.EXECUTED, "ActionChunk another executed_key", lambda: [ActionChunk(4)]),
    (keys.CLIPPED, "ActionChunk another clipped_key", lambda: [ActionChunk(4)]),
    (keys.CHUNK, "NoiseAction another chunk_key", lambda: [ActionChunk(4), NoiseAction(policy())]),
    (
        keys.NOISE,
        "NoiseAction another noise_key",
        lambda: [ActionChunk(4), NoiseAction(policy(), BASIS)],
    ),
    (keys.HISTORY, "History another out_key", lambda: [History(["seen"], length=2)]),
    ("history_length", "History another out_key", lambda: [History(["seen"], length=2)]),
    (keys.LATENT, "LatentConditioner another latent_key", lambda: [LatentConditioner(2)]),
    (("latent", "x"), "LatentConditioner another latent_key", lambda: [LatentConditioner(2)]),
    (
        keys.LATENT_FEATURES,
        "LatentConditioner another features_key",
        lambda: [LatentConditioner(2)],
    ),
    (keys.MI_REWARD, "MIReward another mi_key", lambda: [mi_reward()]),
    (keys.REGULARIZED_REWARD, "MIReward another regularized_key", lambda: [mi_reward()]),
    (keys.NOVELTY_REWARD, "NoveltyReward another novelty_key", lambda: [novelty_reward()]),
    (keys.EXPLORATION_REWARD, "NoveltyReward another total_key", lambda: [novelty_reward()]),
    (
        keys.stacked("seen"),
        "ObservationStack another in_keys than 'seen'",
        lambda: [ObservationStack(["seen"], steps=2)],
    ),
    (keys.ELAPSED, "TimeLimit another elapsed_key", lambda: [TimeLimit(3, "terminates")]),
]


class Named(CountingEnv):
    """Has a further entry, which holds 7."""

    def __init__(self, name: NestedKey) -> None:
        super().__init__([9, 9])
        for key in (name, "seen"):
            self.observation_spec[key] = self.observation_spec["observation"].clone()
        self.name = name

    def _observe(self, state: torch.Tensor, **entries: torch.Tensor):  # noqa: ANN202
        out = super()._observe(state, **entries)
        return out.set(self.name, torch.full_like(state, 7)).set("seen", state.clone())


@pytest.mark.parametrize(("name", "option", "make"), WRITTEN)
def test_an_entry_of_the_environment_is_never_replaced(
    name: NestedKey, option: str, make: Callable[[], list[Transform]]
):
    with pytest.raises(ConfigurationError, match=f"or give {option}"):
        TransformedEnv(Named(name), Compose(*make()))
    env = TransformedEnv(Named("free"), Compose(*make()))  # others stay what they are
    assert (env.reset()["free"] == 7).all()


def test_an_option_makes_room_for_an_entry_of_the_environment():
    env = TransformedEnv(Named("history"), History(["seen"], "past", length=4))
    data = env.rollout(3)
    assert (data["next", "history"] == 7).all()
    assert data["next", "past"].shape[-1] == 15


def test_an_observation_that_is_named_like_the_action_is_refused():
    with pytest.raises(ConfigurationError, match="leave 'action' to the agent"):
        TransformedEnv(Named("action"), ActionChunk(2))


MEMBERS: dict[str, Callable[[], Transform]] = {
    "ObservationStack": lambda: ObservationStack(steps=2),
    "TimeLimit": lambda: TimeLimit(8, "truncates"),
    "StepCounter": lambda: StepCounter(8),
    "ActionChunk": lambda: ActionChunk(2),
    "History": lambda: History(length=9),
    "LatentConditioner": lambda: LatentConditioner(2),
    "MIReward": mi_reward,
    "NoveltyReward": novelty_reward,
}
PLACES = {"ActionChunk": 1, "History": 2, "LatentConditioner": 2, "MIReward": 3, "NoveltyReward": 3}


@pytest.mark.parametrize(("inner", "outer"), [*itertools.permutations(MEMBERS, 2)])
def test_two_transforms_are_attached_in_the_order_that_keeps_their_meaning(inner: str, outer: str):
    env = TransformedEnv(CountingEnv([20]), MEMBERS[inner]())
    if PLACES.get(inner, 0) <= PLACES.get(outer, 0):
        env.append_transform(MEMBERS[outer]())
    elif outer == "StepCounter":  # TorchRL's own is met when ours is next asked
        env.append_transform(StepCounter(8))
        with pytest.raises(ConfigurationError, match=f"StepCounter outside of {inner}"):
            env.append_transform(NoveltyReward(RandomNetworkDistillation.mlp(3, 2, (4,))))
    else:
        with pytest.raises(ConfigurationError, match=rf"order .* got {outer} outside of {inner}"):
            env.append_transform(MEMBERS[outer]())


def test_a_limit_of_decisions_is_met_at_the_first_reset():
    env = TransformedEnv(CountingEnv([20]), Compose(ActionChunk(2), StepCounter(8)))
    with pytest.raises(ConfigurationError, match="StepCounter outside of ActionChunk"):
        env.reset()
    counting = TransformedEnv(CountingEnv([20]), Compose(ActionChunk(2), StepCounter()))
    assert counting.rollout(3)["next", "step_count"].flatten().tolist() == [1, 2, 3]


def test_the_order_holds_across_workers():
    def chunked() -> EnvBase:
        return TransformedEnv(CountingEnv(9), ActionChunk(2))

    with pytest.raises(ConfigurationError, match="TimeLimit outside of the environment steps"):
        TransformedEnv(SerialEnv(2, chunked), TimeLimit(4, "truncates"))

    def remembering() -> EnvBase:
        return TransformedEnv(CountingEnv(9), History(length=9))

    env = TransformedEnv(SerialEnv(2, remembering), ActionChunk(2))
    with pytest.raises(ConfigurationError, match="ActionChunk outside of History"):
        env.reset()
