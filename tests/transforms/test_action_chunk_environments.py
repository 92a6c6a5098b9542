"""ActionChunk on the environments that people bring: state, bounds, successes, types and ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tensordict import TensorDict
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    EnvBase,
    GymWrapper,
    RewardSum,
    SerialEnv,
    StepCounter,
    Transform,
    TransformedEnv,
    UnsqueezeTransform,
)

from modereg import keys
from modereg.errors import ConfigurationError, TerminalObservationError
from modereg.tasks import GymnasiumEnv
from modereg.testing import CountingEnv
from modereg.transforms import ActionChunk

LENGTHS = (3, 7, 4)


class DictCounting(gymnasium.Env):
    """Counts its steps from 100, under one or several names."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, length: int, names: Sequence[str]) -> None:
        self.length, self.names = length, names
        box = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.observation_space = spaces.Dict(dict.fromkeys(names, box))

    def _observe(self) -> dict[str, np.ndarray]:
        return {name: np.array([self.count], np.float32) for name in self.names}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.count = 100
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self.count += 1
        return self._observe(), 1.0, self.count >= 100 + self.length, False, {}


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_vector_environments_whose_last_observation_torchrl_loses_are_refused(names: list[str]):
    makers = [partial(DictCounting, length, names) for length in LENGTHS]
    vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(TerminalObservationError, match="one Box alone and writes zeros for Dict"):
        GymWrapper(vector).append_transform(ActionChunk(2))
    lengths = iter(LENGTHS)
    env = GymnasiumEnv(lambda: DictCounting(next(lengths), names), 3)  # what the refusal names
    data = TransformedEnv(env, ActionChunk(4)).rollout(1)
    assert data["next", names[0]].flatten().tolist() == [103, 104, 104]


class Adding(EnvBase):
    """Adds its action to an entry that it reads from its input and declares as no state.

    It scales the action that it is given in place, and pays what it has reached.
    """

    def __init__(self, batch: tuple[int, ...] = (2,), key: str = "observation") -> None:
        super().__init__(batch_size=batch)
        self.key = key
        self.observation_spec = Composite({key: Unbounded((*batch, 1))}, shape=batch)
        self.action_spec = Unbounded((*batch, 1))
        self.reward_spec = Unbounded((*batch, 1))
        flag = Binary(1, (*batch, 1), dtype=torch.bool)
        self.done_spec = Composite(done=flag, terminated=flag.clone(), shape=batch)

    def _reset(self, tensordict: TensorDict | None = None, **kwargs: object) -> TensorDict:
        return TensorDict({self.key: torch.zeros(*self.batch_size, 1)}, self.batch_size)

    def _step(self, tensordict: TensorDict) -> TensorDict:
        value = tensordict[self.key] + tensordict["action"].mul_(2) / 2
        no = torch.zeros_like(value, dtype=torch.bool)
        entries = {self.key: value, "reward": value.clone(), "done": no, "terminated": no.clone()}
        return TensorDict(entries, self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        torch.manual_seed(seed or 0)


@pytest.mark.parametrize("inner", [[], [StepCounter], [RewardSum]])
@pytest.mark.parametrize(
    "make",
    [
        Adding,
        partial(Adding, key="hidden"),
        lambda: SerialEnv(2, partial(Adding, ())),
    ],
)
def test_state_that_no_spec_declares_goes_on_within_a_chunk(
    make: Callable[[], EnvBase], inner: list[type[Transform]]
):
    env = TransformedEnv(make(), Compose(*(kind() for kind in inner), ActionChunk(4)))
    root = env.reset()
    key = "hidden" if "hidden" in root else "observation"
    for expected in ((4.0, 10.0), (8.0, 26.0), (12.0, 42.0)):
        root.set("action", torch.ones(2, 4, 1))
        after, root = env.step_and_maybe_reset(root)
        found = after["next", key][0].item(), after["next", "reward"][0].item()
        assert found == expected
        assert (after["action"] == 1).all()
        assert (after["next", keys.EXECUTED] == 1).all()


def test_bounds_hold_dimension_by_dimension():
    class Open(CountingEnv):
        def __init__(self) -> None:
            super().__init__([9])
            low, high = torch.tensor([[-1, -torch.inf]]), torch.tensor([[1, torch.inf]])
            self.action_spec = Bounded(low, high, (1, 2))

    env = TransformedEnv(Open(), ActionChunk(2))
    out = env.step(env.reset().set("action", torch.full((1, 2, 2), 5.0)))["next"]
    assert out["observation"].tolist() == [[2, 2, 10]]
    assert out[keys.CLIPPED].item() == 0.5
    assert torch.isfinite(env.rollout(3)["next", "observation"]).all()


class Momentary(CountingEnv):
    """Has succeeded in its fifth and sixth step, and then no longer."""

    def __init__(self, lengths: list[int] | int) -> None:
        super().__init__(lengths)
        shape = (*self.batch_size, 1)
        self.observation_spec["success"] = Binary(1, shape, dtype=torch.bool)

    def _observe(self, state: torch.Tensor, **entries: torch.Tensor) -> TensorDict:
        count = state[..., :1]
        return super()._observe(state, **entries).set("success", (count == 5) | (count == 6))


@pytest.mark.parametrize("inner", [[], [StepCounter]])
@pytest.mark.parametrize(
    "make",
    [
        partial(Momentary, [12, 3]),
        lambda: SerialEnv(2, [lambda n=n: Momentary(n) for n in (12, 3)]),
    ],
)
def test_a_success_within_a_chunk_is_kept_to_the_end_of_the_episode(
    make: Callable[[], EnvBase], inner: list[type[Transform]]
):
    expected = {"once": [0, 1, 1, 0, 1], "at_end": [0, 0, 0, 0, 0]}
    for success, row in expected.items():
        chain = [*(kind() for kind in inner), ActionChunk(4, success=success)]
        data = TransformedEnv(make(), Compose(*chain)).rollout(5, break_when_any_done=False)
        assert data["next", "success"][0].flatten().tolist() == row
        assert not data["next", "success"][1].any()


def test_an_environment_says_what_success_means(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Momentary, "success_counts", "at_end", raising=False)
    found = {}
    for success in (None, "once"):
        env = TransformedEnv(Momentary([12]), ActionChunk(4, success=success))
        found[success] = env.rollout(3)["next", "success"].any().item()
    assert found == {None: False, "once": True}
    with pytest.raises(ConfigurationError, match="success of 'once' or 'at_end', got 'twice'"):
        ActionChunk(4, success="twice")


class Goal(gymnasium.Env):
    """A goal dictionary in double precision, as gymnasium-robotics has it."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)
    observation_space = spaces.Dict(
        {
            name: spaces.Box(-np.inf, np.inf, (2,), np.float64)
            for name in ("observation", "achieved_goal", "desired_goal")
        }
    )

    def __init__(self, length: int) -> None:
        self.length = length

    def _observe(self) -> dict[str, np.ndarray]:
        goal = np.full(2, self.length, np.float64)
        place = np.full(2, self.steps, np.float64)
        return {"observation": place, "achieved_goal": place.copy(), "desired_goal": goal}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        assert self.steps < self.length, "stepped after its end"
        self.steps += 1
        return self._observe(), 1.0, self.steps == self.length, False, {}


def wrapped_goal(length: int) -> EnvBase:
    return GymWrapper(Goal(length))


def test_rows_may_end_within_a_chunk_below_a_change_of_type_or_shape():
    makers = [partial(wrapped_goal, length) for length in LENGTHS]
    names = ["observation", "achieved_goal", "desired_goal"]
    chain = Compose(
        DoubleToFloat(in_keys=names[:2]),
        UnsqueezeTransform(-1, in_keys=names[2:], allow_positive_dim=True),
        ActionChunk(4),
    )
    env = TransformedEnv(SerialEnv(len(LENGTHS), makers), chain)
    data = env.rollout(4, break_when_any_done=False)
    env.close()
    assert data["next", "achieved_goal"].dtype == torch.float32
    assert data["next", "desired_goal"].shape[-2:] == (2, 1)
    counts = data["next", "achieved_goal"][..., 0].tolist()
    assert counts == [[3, 3, 3, 3], [4, 7, 4, 7], [4, 4, 4, 4]]
    assert data["next", "reward"].squeeze(-1).tolist() == [[3] * 4, [4, 3, 4, 3], [4] * 4]


class Reusing(CountingEnv):
    """Hands out the same tensors at every step, and writes into them at the next."""

    def _step(self, tensordict: TensorDict) -> TensorDict:
        fresh = super()._step(tensordict)
        self.__dict__.setdefault("_handed", fresh.clone())
        return self._handed.update_(fresh).copy()


def test_an_environment_may_reuse_its_tensors_within_a_chunk():
    found = []
    for kind in (CountingEnv, Reusing):
        env = TransformedEnv(kind([3, 7, 9]), ActionChunk(5, gamma=0.9))
        root = env.reset().set("action", torch.arange(30.0).view(3, 5, 2) / 100)
        found.append(env.step(root)["next"].clone())
    assert (found[0] == found[1]).all()
