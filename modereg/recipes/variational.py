"""Stage 1 as in BMD (arXiv 2605.11387): reinforcement learning on the intrinsic reward alone."""

from __future__ import annotations

from typing import Any

import torch
from torchrl.envs import EnvBase

from modereg import keys
from modereg.discovery import VariationalModeDiscoverer
from modereg.estimators import CategoricalMI
from modereg.networks import MLP, InputNoise
from modereg.priors import CategoricalPrior
from modereg.recipes.build import Setup
from modereg.recipes.config import DiscoverConfig
from modereg.recipes.loop import Stage, close, fit_to_base, train
from modereg.recipes.ppo import PPO, make_critic
from modereg.recipes.runs import Run, seed_everything
from modereg.rollouts import collect_episodes
from modereg.wrapping import make_steering, observation_size

__all__ = ["discover_variational", "fresh_discoverer"]

DEFAULT_CODES = 16


def discover_variational(run: Run, setup: Setup) -> dict[str, Any]:
    """Maximise log q(z|s) - log p(z) by PPO while q learns beside it; return the summary."""
    config: DiscoverConfig = run.config
    stage = _make_stage(config, setup)
    env_steps = train(
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


def _make_stage(config: DiscoverConfig, setup: Setup) -> Stage:
    prior = CategoricalPrior(config.num_codes or DEFAULT_CODES)
    env = setup.steered(prior, config.ppo.gamma)
    seed_everything(config.seed)
    steering = make_steering(env, setup.base, prior, setup.steering_keys, hidden=config.hidden)
    size = observation_size(env, setup.steering_keys)
    critic = make_critic(setup.steering_keys, size, prior.feature_dim, config.hidden)
    online, start_steps = fresh_discoverer(setup, env, prior, config.hidden, config.seed)
    start_steps += fit_to_base(setup, env, steering, critic, config.seed)
    learner = PPO(
        env,
        steering,
        critic,
        config.ppo,
        reward_key=keys.MI_REWARD,
        decisions=setup.decisions(config.ppo.decisions),
        truncates=setup.task.time_limit == "truncates",
    )
    mi_reward = setup.mi_reward(online.estimator, 1.0, config.timing, config.ppo.gamma)
    return Stage(env, prior, steering, learner, online.estimator, online, mi_reward, start_steps)


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
    network = MLP(observation_size(env, [keys.HISTORY]), prior.num_codes, hidden)
    noisy = InputNoise(network, setup.task.feature_noise)
    online = VariationalModeDiscoverer(CategoricalMI(noisy, prior))
    env.set_seed(seed_everything(seed, 4))
    episodes = collect_episodes(
        env,
        min(setup.num_envs, 512),
        max_decisions=setup.task.max_decisions,
        final=[keys.HISTORY, keys.LATENT],
    )
    with torch.no_grad():
        online.fit(_as_rollout(episodes.final))
    return online, episodes.spent


def _as_rollout(final: Any) -> Any:
    """Present last entries ``[N]`` as transitions, whose features are in ``next``."""
    return final.select(keys.LATENT).set("next", final.select(keys.HISTORY))
