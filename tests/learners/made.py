"""What the tests of learners share: a small problem, turns of a learner, its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modereg import keys
from modereg.estimators import CategoricalMI
from modereg.layout import Layout
from modereg.learners.base import Problem
from modereg.learners.replay import ReplayLearner
from modereg.residual import ChunkResidual
from modereg.testing import CountingEnv, TinyPolicy
from modereg.transforms import MIReward
from modereg.wrapping import make_steering, observation_size, steer_env

__all__ = ["make_learner", "problem", "same", "turn", "weights"]

SMALL = {"decisions": 2, "prefill": 16, "buffer": 64, "minibatch": 8, "updates": 0.5}


def problem(
    *, coef: float | None = None, seed: int = 0, residual: ChunkResidual | None = None
) -> Problem:
    """Return one of 4 environments, 2 codes and chunks of 3 actions, which are clipped."""
    torch.manual_seed(0)
    policy = TinyPolicy(3)
    layout = Layout(12, execute=3, gamma=0.9)
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


def turn(made: ReplayLearner) -> dict[str, float]:
    batch = made.collect()
    if made.problem.mi_reward is not None:
        batch = made.problem.mi_reward(batch)
    return made.update(batch)


def weights(made: ReplayLearner) -> dict[str, Tensor]:
    return {**made.steering.state_dict(), **made.loss.state_dict()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)
