"""The battery for tasks: ours pass it, and each fault is found by its sentence."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase, PendulumEnv

from modereg.layout import Layout
from modereg.tasks import (
    Demonstrations,
    GaussianMixture,
    GymnasiumEnv,
    Task,
    avoid_task,
    gaussian_mixture_task,
    gymnasium_task,
)
from modereg.testing import CountingEnv, check_task, counting_gym

OURS: dict[str, Callable[[], Task]] = {
    "gaussian_mixture": gaussian_mixture_task,
    "avoid": avoid_task,
    "gymnasium": partial(gymnasium_task, "Pendulum-v1", max_steps=30),
    "gymnasium_terminates": partial(gymnasium_task, "MountainCarContinuous-v0", max_steps=40),
}


@pytest.mark.parametrize("name", OURS)
def test_our_tasks_pass(name: str) -> None:
    check_task(OURS[name]())


def five_steps() -> EnvBase:
    return CountingEnv(5)


@pytest.mark.parametrize("max_steps", [3, 5, 9])
def test_a_factory_will_do(max_steps: int) -> None:
    check_task(five_steps, max_steps=max_steps, num_envs=2)


def test_the_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    check_task(five_steps, max_steps=5)
    assert torch.equal(torch.get_rng_state(), before)


# --- environments with one fault each


class Mixture(GaussianMixture):
    """Does not fail: what the faulty ones below are made of."""

    numbers = itertools.count()

    def __init__(self, num_envs: int, **options: Any) -> None:
        self.number = next(self.numbers)
        self.calls = 0
        super().__init__(num_envs, **options)


class WrongType(Mixture):
    def _observe(self) -> dict[str, Tensor]:
        entries = super()._observe()
        return entries | {"observation": entries["observation"].double()}


class NaNLater(Mixture):
    def _observe(self) -> dict[str, Tensor]:
        entries = super()._observe()
        late = torch.where(self._steps > 6, torch.nan, 0.0)
        return entries | {"observation": entries["observation"] + late}


class UnseededStart(Mixture):
    def _draw_start(self) -> Tensor:
        self.calls += 1
        return super()._draw_start() + 0.01 * self.calls


class UnseededStep(Mixture):
    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        self._desired = self._desired + 1e-3 * self.number
        return super()._step(tensordict)


class ResetsAll(Mixture):
    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        return super()._reset(None)


class ForgetsAll(Mixture):
    """Has a hidden momentum, which a reset of one row takes from all."""

    momentum: Tensor | float = 0.0

    def _forget(self, mask: Tensor) -> None:
        self.momentum = 0.0

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.momentum = 0.9 * self.momentum + tensordict["action"]
        return super()._step(tensordict.copy().set("action", self.momentum))


class NeverEnds(Mixture):
    def _observe(self) -> dict[str, Tensor]:
        entries = super()._observe()
        never = torch.zeros_like(entries["done"])
        return entries | {"done": never, "terminated": never.clone()}


class WrongClock(Mixture):
    def _observe(self) -> dict[str, Tensor]:
        entries = super()._observe()
        return entries | {"elapsed": (2 * entries["elapsed"]).clamp_max(1.0)}


class StaleSuccess(Mixture):
    def _observe(self) -> dict[str, Tensor]:
        entries = super()._observe()
        return entries | {"success": entries["success"] | (self._steps == 0)}


class DecidedAtReset(Mixture):
    def judge(self, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        success, failure, mode = super().judge(position)
        return success, failure, torch.zeros_like(mode)


class Undecided(Mixture):
    def judge(self, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        success, failure, mode = super().judge(position)
        return success, failure, torch.full_like(mode, -1)


class ChangesItsMind(Mixture):
    def judge(self, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        success, failure, mode = super().judge(position)
        steps = self._steps.squeeze(-1).long()
        return success, failure, torch.where(steps > 0, steps % 2, -1)


class BreaksAtItsBounds(Mixture):
    """Divides by 0 in the corners of the action spec, where the expert never goes."""

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict["action"]
        left = (self.max_delta - action.abs()).amax(-1, keepdim=True)
        return super()._step(tensordict.copy().set("action", action * left / left))


class MovesAfterItsEnd(Mixture):
    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        self._alive = torch.ones_like(self._alive)
        return super()._step(tensordict)


FAULTY_ENVIRONMENTS: dict[str, type[EnvBase]] = {
    "specs and data disagree": WrongType,
    "random actions: .* not finite": NaNLater,
    r"set_seed\(0\) and reset give another 'observation'": UnseededStart,
    "one seed gives two rollouts": UnseededStep,
    "the other rows go on differently, in 'elapsed'": ResetsAll,
    "the other rows go on differently, in 'observation'": ForgetsAll,
    "goes on after max_steps=24": NeverEnds,
    "'elapsed' is not the share of max_steps=24": WrongClock,
    "begins with 'success' set": StaleSuccess,
    "begins with a mode": DecidedAtReset,
    "ended with success while its mode was undecided": Undecided,
    "a decided mode changed within its episode": ChangesItsMind,
    "at the bounds of the spec led to .* not finite": BreaksAtItsBounds,
    "promises that finished rows stay": MovesAfterItsEnd,
}


@pytest.mark.parametrize("sentence", FAULTY_ENVIRONMENTS)
def test_faults_of_environments_are_found(sentence: str) -> None:
    task = replace(gaussian_mixture_task(), make_env=FAULTY_ENVIRONMENTS[sentence])
    with pytest.raises(AssertionError, match=f"^gaussian_mixture.*{sentence}"):
        check_task(task)


def test_what_the_faulty_ones_are_made_of_passes() -> None:
    check_task(replace(gaussian_mixture_task(), make_env=Mixture))


class TakesNoises(Mixture):
    """Its steps draw from one generator for all rows, as many simulators do."""

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        self._desired = self._desired + 0.01 * (self._draw_start() - self._start)
        return super()._step(tensordict)


def test_noise_in_steps_has_to_be_said() -> None:
    task = replace(gaussian_mixture_task(), make_env=TakesNoises, demonstrate=None)
    with pytest.raises(AssertionError, match="pass noisy_steps=True"):
        check_task(task)
    check_task(task, noisy_steps=True)


# --- declarations that do not fit


class TooFewDecisions(Layout):
    @property
    def max_decisions(self) -> int:
        return 3


LAYOUT = {entry.name for entry in dataclasses.fields(Layout)}


def changed(task: Task, **fields: Any) -> Task:
    of_layout = {name: fields.pop(name) for name in LAYOUT & set(fields)}
    return replace(task, **fields).with_layout(**of_layout)


def mixture(**fields: Any) -> Task:
    return changed(gaussian_mixture_task(), **fields)


def pendulum(**fields: Any) -> Task:
    return changed(gymnasium_task("Pendulum-v1", max_steps=12), **fields)


def one_batch(num_envs: int) -> EnvBase:
    return GymnasiumEnv(partial(counting_gym, 5), 1)


WRONG: dict[str, Callable[[], Task]] = {
    "goes on after max_steps=20": partial(mixture, max_steps=20),
    "'elapsed' is not the share of max_steps=30": partial(mixture, max_steps=30),
    "terminates, where the task declares that it truncates": partial(
        mixture, time_limit="truncates"
    ),
    "truncated, where the task declares that its time limit terminates": partial(
        pendulum, time_limit="terminates"
    ),
    "truncated after 12 steps, where the task declares max_steps=20": partial(
        pendulum, max_steps=20
    ),
    "feature_keys names 'position', which the environment does not write": partial(
        mixture, feature_keys=("position",)
    ),
    "steering_keys names 'success', which is torch.bool": partial(
        mixture, steering_keys=("success",)
    ),
    r"feature_dims are \(0, 2\) of features of length 2": partial(mixture, feature_dims=(0, 2)),
    "declares 2 modes, but its environment writes no 'mode'": partial(pendulum, num_modes=2),
    r"shows modes in \[0, 3\], where the task has 3": partial(
        mixture, num_modes=3, mode_names=None
    ),
    r"made an environment of batch \(1,\), expected \(3,\)": partial(pendulum, make_env=one_batch),
    "goes on after max_decisions=3 decisions": lambda: Task(
        "short", GaussianMixture, TooFewDecisions(24, execute=4, time_limit="terminates")
    ),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_declarations_are_found(sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_task(WRONG[sentence]())


def test_single_numbers_are_refused() -> None:
    with pytest.raises(AssertionError, match=r"names 'th' of shape \(3,\), a single number"):
        check_task(PendulumEnv, max_steps=5)


def test_one_environment_is_too_few() -> None:
    with pytest.raises(AssertionError, match="at least two environments, not 1"):
        check_task(mixture(), num_envs=1)


# --- experts with one fault each


def expert(fault: Callable[[Demonstrations], object]) -> Callable[..., Demonstrations]:
    honest = gaussian_mixture_task().demonstrate

    def demonstrate(num_episodes: int, seed: int, shares: Any = None) -> Demonstrations:
        assert honest is not None
        shown = honest(num_episodes, seed, shares)
        fault(shown)
        return shown

    return demonstrate


def too_wide(shown: Demonstrations) -> None:
    shown.actions[0, 0, 0] = 1.0


def unpadded(shown: Demonstrations) -> None:
    shown.actions[:, -1] = 0.01


def moving(shown: Demonstrations) -> None:
    shown.observations["observation"][:, -1] += 1.0


def endless(shown: Demonstrations) -> None:
    shown.lengths += 100


def unlucky(shown: Demonstrations) -> None:
    shown.success[::2] = False


def fickle(shown: Demonstrations) -> None:
    shown.actions[0, 0] = 0.01 * torch.rand(2)


def one_mode(shown: Demonstrations) -> None:
    shown.modes[:] = 3


def stubborn(shown: Demonstrations) -> None:
    shown.modes[:] = torch.arange(len(shown)) % 4


def of_another_type(shown: Demonstrations) -> None:
    shown.observations["observation"] = shown.observations["observation"].double()


def blind(shown: Demonstrations) -> None:
    shown.observations["seen"] = shown.observations.pop("observation")


def broken(shown: Demonstrations) -> None:
    shown.actions[0, 0] = torch.nan


def lazy(shown: Demonstrations) -> None:
    for name in ("actions", "lengths", "modes", "success"):
        setattr(shown, name, getattr(shown, name)[:-1])
    shown.observations = {key: value[:-1] for key, value in shown.observations.items()}


FAULTY_EXPERTS = {
    "shows actions outside of the environment's spec": too_wide,
    "actions past the end are not 0": unpadded,
    "past the end does not repeat the last observation": moving,
    r"lengths must be int64 in \[1, 24\]": endless,
    "succeeds in 0.50 of its episodes, below 0.90": unlucky,
    "does not repeat its episodes for one seed": fickle,
    r"shows no success of the modes \[0, 1, 2\]": one_mode,
    "where the shares ask for mode 3 alone": stubborn,
    "shows 'observation' as torch.float64": of_another_type,
    "does not show 'observation', which the policy reads": blind,
    "shows values that are not finite": broken,
    r"gave actions \(7, 24, 2\), expected \[8, T, 2\]": lazy,
}


@pytest.mark.parametrize("sentence", FAULTY_EXPERTS)
def test_faults_of_experts_are_found(sentence: str) -> None:
    with pytest.raises(AssertionError, match=f"^gaussian_mixture's expert.*{sentence}"):
        check_task(mixture(demonstrate=expert(FAULTY_EXPERTS[sentence])))


class Slippery(gymnasium.Wrapper):
    """Says in its info how it went: success at the end, in the mode of its first action."""

    def reset(self, **options: Any) -> tuple[Any, dict]:
        observation, info = self.env.reset(**options)
        self.mode = -1
        return observation, info | {"success": False}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.mode = int(action[0] > 0) if self.mode < 0 else self.mode
        info = info | {"success": terminated, "mode": self.mode}
        return observation, reward, terminated, truncated, info


def slippery(num_envs: int) -> EnvBase:
    return GymnasiumEnv(
        lambda: Slippery(counting_gym(6)),
        num_envs,
        success_key="success",
        mode_key="mode",
        num_modes=2,
    )


def test_a_labelled_gymnasium_environment() -> None:
    check_task(Task("slippery", slippery, Layout(6, execute=8), num_modes=2))
