"""What the tests of learners share: a small problem, turns of a learner, its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from modereg import keys
from modereg.estimators import CategoricalMI
from modereg.layout import Layout
from modereg.learners.base import Problem
from modereg.learners.ppo import OnPolicyLearner
from modereg.learners.replay import ReplayLearner
from modereg.policies import GenerativePolicy
from modereg.residual import ChunkResidual
from modereg.seeding import generator_state, set_generator_state
from modereg.testing import CountingEnv, TinyPolicy
from modereg.transforms import MIReward
from modereg.wrapping import make_steering, observation_size, steer_env

__all__ = [
    "check_goes_on",
    "make_learner",
    "problem",
    "same",
    "trained_weights",
    "turn",
    "weights",
]

SMALL = {"decisions": 2, "prefill": 16, "buffer": 64, "minibatch": 8, "updates": 0.5}


def problem(
    *,
    coef: float | None = None,
    seed: int = 0,
    residual: ChunkResidual | None = None,
    policy: GenerativePolicy | None = None,
    basis: Tensor | None = None,
) -> Problem:
    """Return one of 4 environments, 2 codes and chunks of 3 actions, which are clipped."""
    torch.manual_seed(0)
    policy = policy or TinyPolicy(3)
    layout = Layout(12, execute=3, gamma=0.9, noise_basis=basis)
    env = steer_env(CountingEnv([3, 7, 5, 12]), policy, 2, layout, residual)
    steering = make_steering(env, policy, 2, hidden=(16,))
    mi_reward, key = None, keys.REWARD
    if coef is not None:
        q = CategoricalMI(observation_size(env, [keys.HISTORY]), 2, hidden=(16,))
        mi_reward, key = MIReward(q, env.layout, coef=coef), keys.REGULARIZED_REWARD
    return Problem(env, steering, policy, key, mi_reward, seed=seed, hidden=(16,))


def make_learner(kind: type[Any], *, on: dict[str, Any] | None = None, **options: Any) -> Any:
    """Return the learner of a kind of configuration; ``on`` has the options of the problem."""
    return kind(**(SMALL | options)).make(problem(**(on or {})))


def turn(made: ReplayLearner | OnPolicyLearner) -> dict[str, float]:
    batch = made.collect()
    if made.problem.mi_reward is not None:
        batch = made.problem.mi_reward(batch)
    return made.update(batch)


def weights(made: ReplayLearner) -> dict[str, Tensor]:
    return {**made.steering.state_dict(), **made.loss.state_dict()}


def trained_weights(made: OnPolicyLearner) -> dict[str, Tensor]:
    parts = made.trained.items()
    return {
        f"{name}.{key}": value for name, part in parts for key, value in part.state_dict().items()
    }


def check_goes_on(
    make: Callable[[], Any], read: Callable[[Any], dict[str, Tensor]], turns: int
) -> list[dict[str, float]]:
    """Check that a state of :meth:`state_dict` goes on bit for bit; the generators' is the run's.

    Args:
        make: the learner, the same one each time.
        read: its weights.
        turns: before the state is taken, and after it.

    Returns:
        The figures of the turns after it.
    """
    first = make()
    for _ in range(turns):
        turn(first)
    state, generators = copy.deepcopy(first.state_dict()), generator_state()
    expected = [turn(first) for _ in range(turns)]
    resumed = make()
    turn(resumed)  # something to be taken back
    resumed.load_state_dict(state)
    set_generator_state(generators)
    assert [turn(resumed) for _ in range(turns)] == expected
    assert same(read(resumed), read(first))
    assert resumed.batches == 2 * turns
    return expected


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)
