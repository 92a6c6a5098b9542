"""Stage 2: reinforcement learning on the task's reward, with the intrinsic reward beside it.

Plain fine-tuning is this very recipe with one code and coefficient 0.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from pathlib import Path
from typing import cast

from modereg import keys
from modereg.checkpoints import Adapter, load_adapter
from modereg.discovery import VariationalModeDiscoverer
from modereg.estimators import RewardEstimator
from modereg.networks import MLP
from modereg.priors import CategoricalPrior
from modereg.recipes.build import Setup, discrete, set_up
from modereg.recipes.config import FinetuneConfig
from modereg.recipes.events import Event, Finished, drain
from modereg.recipes.loop import Stage, close, fit_to_base, iterate
from modereg.recipes.ppo import PPO, make_critic
from modereg.recipes.runs import Run, seed_everything
from modereg.recipes.summaries import Summary
from modereg.recipes.variational import fresh_discoverer
from modereg.wrapping import make_steering, observation_size

__all__ = ["finetune", "finetune_events"]


def finetune(config: FinetuneConfig) -> Summary:
    """Run stage 2; see :class:`~modereg.recipes.config.FinetuneConfig`.

    Returns:
        The run's summary; the adapter lies in ``out/adapter``.
    """
    return drain(finetune_events(config))


def finetune_events(config: FinetuneConfig) -> Generator[Event, None, Summary]:
    """Run stage 2 step by step; :func:`~modereg.recipes.follow.follow` is the way to use it."""
    with Run(config) as run:
        yield run.started()
        summary = run.summary if run.finished else (yield from _train(run))
        yield Finished(run.folder, summary)
        return summary


def _train(run: Run) -> Generator[Event, None, Summary]:
    config: FinetuneConfig = run.config
    setup = set_up(config.task, config.base)
    stage = _make_stage(config, setup)
    env_steps = yield from iterate(
        run,
        setup,
        stage,
        done=lambda _, env_steps: env_steps >= config.env_steps,
        total=config.env_steps,
        eval_every=config.eval_every,
        eval_episodes=config.eval_episodes,
    )
    return close(run, setup, stage, env_steps, method="finetune", episodes=config.final_episodes)


def _make_stage(config: FinetuneConfig, setup: Setup) -> Stage:
    """Load what stage 1 gave, or begin at the base with one code."""
    adapter = None
    if config.start is not None:
        adapter = load_adapter(Path(config.start) / "adapter", setup.base)
    prior = CategoricalPrior(config.num_codes or 1)
    if adapter is not None:
        prior = discrete(adapter.prior)
    env = setup.steered(prior, config.ppo.gamma)
    seed_everything(config.seed)
    fresh = make_steering(env, setup.base, prior, setup.steering_keys, hidden=config.hidden)
    size = observation_size(env, setup.steering_keys)
    critic = make_critic(setup.steering_keys, size, prior.feature_dim, config.hidden)
    start_steps = int(adapter.extra["env_steps"]) if adapter is not None else 0
    steering = fresh
    if adapter is None or config.regulariser == "scratch":
        start_steps += fit_to_base(setup, env, steering, critic, config.seed)
    else:
        steering = adapter.steering
        network = cast(MLP, steering.head.network)
        critic.module.features.load_state_dict(network.features.state_dict())
    if config.std is not None:
        steering.set_std(config.std)
    estimator: RewardEstimator | None = None
    online: VariationalModeDiscoverer | None = None
    if adapter is not None and adapter.estimator is not None:
        estimator, online = _take_up(config, adapter, adapter.estimator)
    elif prior.num_codes > 1:
        online, steps = fresh_discoverer(setup, env, prior, config.hidden, config.seed)
        estimator, start_steps = online.estimator, start_steps + steps
    mi_reward = None
    if estimator is not None and prior.num_codes > 1:
        mi_reward = setup.mi_reward(estimator, config.coef, config.timing, config.ppo.gamma)
    learner = PPO(
        env,
        steering,
        critic,
        config.ppo,
        reward_key=keys.REWARD if mi_reward is None else keys.REGULARIZED_REWARD,
        decisions=setup.decisions(config.ppo.decisions),
        truncates=setup.task.time_limit == "truncates",
    )
    return Stage(env, prior, steering, learner, estimator, online, mi_reward, start_steps)


def _take_up(
    config: FinetuneConfig, adapter: Adapter, estimator: RewardEstimator
) -> tuple[RewardEstimator, VariationalModeDiscoverer | None]:
    """Return stage 1's q, and what trains it if it keeps learning."""
    if config.discoverer == "frozen" and adapter.extra.get("method") != "variational":
        return estimator.requires_grad_(False), None
    online = VariationalModeDiscoverer(copy.deepcopy(estimator).requires_grad_(True))
    return online.estimator, online
