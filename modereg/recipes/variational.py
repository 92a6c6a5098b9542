"""Stage 1 as in BMD (arXiv 2605.11387): reinforcement learning on the intrinsic reward alone."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

import torch
from torchrl.envs import EnvBase

from modereg import keys
from modereg.discovery import VariationalModeDiscoverer
from modereg.estimators import (
    CategoricalMI,
    RewardEstimator,
    estimator_class,
)
from modereg.networks import MLP
from modereg.priors import CategoricalPrior, Prior
from modereg.recipes.build import Setup, discrete
from modereg.recipes.config import DiscoverConfig
from modereg.recipes.events import Event
from modereg.recipes.loop import Stage, close, fit_to_base, iterate
from modereg.recipes.ppo import PPO, make_critic
from modereg.recipes.runs import Run, seed_everything
from modereg.recipes.summaries import Summary
from modereg.rollouts import collect_episodes
from modereg.steering import SteeringPolicy
from modereg.wrapping import make_steering, observation_size

__all__ = ["discover_variational", "fresh_discoverer", "make_stage"]

DEFAULT_CODES = 16


def discover_variational(run: Run, setup: Setup) -> Generator[Event, None, Summary]:
    """Maximise log q(z|s) - log p(z) by PPO while q learns beside it; return the summary."""
    config: DiscoverConfig = run.config
    stage = make_stage(config, setup)
    env_steps = yield from iterate(
        run,
        setup,
        stage,
        done=lambda iteration, _: iteration >= config.iterations,
        total=config.iterations * setup.num_envs * setup.task.max_steps,
        eval_every=10,
        eval_episodes=1024,
    )
    return close(
        run, setup, stage, env_steps, method="variational", episodes=config.refine_episodes
    )


def make_stage(
    config: DiscoverConfig,
    setup: Setup,
    *,
    estimator: RewardEstimator | None = None,
    steering: SteeringPolicy | None = None,
) -> Stage:
    """Return what the loop works on: PPO on the intrinsic reward alone, and q that learns beside.

    Args:
        config: options; ``num_codes`` counts only without an estimator.
        setup: task and base.
        estimator: reads the history, pays and learns, not yet trained; it brings its prior. None
            makes the one that the config names.
        steering: where learning begins, fitted to observations, trained in place; None begins at
            the base.
    """
    prior = (
        estimator.prior
        if estimator is not None
        else CategoricalPrior(config.num_codes or DEFAULT_CODES)
    )
    env = setup.steered(prior, config.ppo.gamma)
    seed_everything(config.seed)
    start = steering
    if start is None:
        start = make_steering(env, setup.base, prior, setup.steering_keys, hidden=config.hidden)
    size = observation_size(env, setup.steering_keys)
    critic = make_critic(setup.steering_keys, size, prior.feature_dim, config.hidden)
    if estimator is None:
        estimator = _make_estimator(config, setup, env, discrete(prior))
    online = VariationalModeDiscoverer(estimator)
    start_steps = _scale(setup, env, online, config.seed)
    if steering is None:
        start_steps += fit_to_base(setup, env, start, critic, config.seed)
    else:
        network = cast(MLP, steering.head.network)
        critic.module.features.load_state_dict(network.features.state_dict())
    learner = PPO(
        env,
        start,
        critic,
        config.ppo,
        reward_key=keys.MI_REWARD,
        decisions=setup.decisions(config.ppo.decisions),
        truncates=setup.task.time_limit == "truncates",
    )
    mi_reward = setup.mi_reward(estimator, 1.0, config.timing, config.ppo.gamma)
    return Stage(env, prior, start, learner, estimator, online, mi_reward, start_steps)


def _make_estimator(
    config: DiscoverConfig, setup: Setup, env: EnvBase, prior: CategoricalPrior
) -> RewardEstimator:
    return estimator_class(config.estimator)(
        observation_size(env, [keys.HISTORY]),
        prior,
        hidden=config.hidden,
        noise=setup.task.feature_noise,
    )


def fresh_discoverer(
    setup: Setup, env: EnvBase, prior: CategoricalPrior, hidden: tuple[int, ...], seed: int
) -> tuple[VariationalModeDiscoverer, int]:
    """Return an untrained q, its features scaled by some episodes of the base, and their steps.

    Args:
        setup: task and base.
        env: steered environment with the prior's codes.
        prior: p(z).
        hidden: widths of q.
        seed: of the run.

    Returns:
        The discoverer, and the environment steps that its scale took.
    """
    online = VariationalModeDiscoverer(_classifier(setup, env, prior, hidden))
    return online, _scale(setup, env, online, seed)


def _classifier(setup: Setup, env: EnvBase, prior: Prior, hidden: tuple[int, ...]) -> CategoricalMI:
    size = observation_size(env, [keys.HISTORY])
    return CategoricalMI(size, prior, hidden=hidden, noise=setup.task.feature_noise)


def _scale(setup: Setup, env: EnvBase, online: VariationalModeDiscoverer, seed: int) -> int:
    """Scale q's features by some episodes of the base; return the steps that it took."""
    env.set_seed(seed_everything(seed, 4))
    episodes = collect_episodes(
        env,
        min(setup.num_envs, 512),
        max_decisions=setup.task.max_decisions,
        final=[keys.HISTORY, keys.LATENT],
    )
    with torch.no_grad():
        online.fit(_as_rollout(episodes.final))
    return episodes.spent


def _as_rollout(final: Any) -> Any:
    """Present last entries ``[N]`` as transitions, whose features are in ``next``."""
    return final.select(keys.LATENT).set("next", final.select(keys.HISTORY))
