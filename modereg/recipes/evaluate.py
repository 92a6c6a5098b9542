"""The one evaluation path: what draws the training curves is what ``modereg evaluate`` runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from modereg import keys
from modereg.checkpoints import load_adapter
from modereg.estimators import RewardEstimator
from modereg.metrics import BehaviourMetrics, behaviour_metrics
from modereg.recipes.build import Setup, discrete, set_up
from modereg.recipes.config import EvaluateConfig
from modereg.recipes.progress import Progress
from modereg.recipes.runs import seed_everything
from modereg.rollouts import Episodes, collect_episodes
from modereg.storage import write_json

__all__ = ["evaluate", "evaluate_policy", "judge"]

Policy = Callable[[TensorDictBase], TensorDictBase]


def judge(
    setup: Setup, episodes: Episodes, num_codes: int, estimator: RewardEstimator | None = None
) -> BehaviourMetrics:
    """Return the figures of episodes, by their last success, mode, code and history."""
    final = episodes.final
    success, modes = final.get(keys.SUCCESS, None), final.get(keys.MODE, None)
    predicted = None if estimator is None else estimator.log_prob(final).argmax(-1)
    return behaviour_metrics(
        None if success is None else success.squeeze(-1),
        final.get(keys.LATENT),
        num_codes,
        returns=episodes.returns,
        modes=None if modes is None else modes.squeeze(-1),
        num_modes=setup.task.num_modes,
        predicted_codes=predicted,
    )


def final_keys(setup: Setup) -> list:
    """Entries of the last ``next`` that an evaluation reads."""
    there = setup.env.observation_spec.keys(True, True)
    labels = [key for key in (keys.SUCCESS, keys.MODE) if key in there]
    return [*labels, keys.HISTORY, keys.LATENT]


@torch.no_grad()
def evaluate_policy(
    setup: Setup,
    env: EnvBase,
    policy: Policy | None,
    *,
    num_codes: int,
    episodes: int,
    seed: int,
    estimator: RewardEstimator | None = None,
    deterministic: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[BehaviourMetrics, Episodes]:
    """Roll out whole episodes with codes from the prior, and judge them.

    Torch's global generator is left as it was.

    Args:
        setup: task and base.
        env: steered environment.
        policy: writes the noise; None is the base policy.
        num_codes: K.
        episodes: number of episodes.
        seed: of the episodes.
        estimator: q, which reads the code off each episode.
        deterministic: whether to steer by the mean noise.
        progress: called with the number of episodes after each batch of them.
    """
    with torch.random.fork_rng(devices=[]):
        env.set_seed(seed_everything(seed, int(deterministic)))
        rolled = collect_episodes(
            env,
            episodes,
            max_decisions=setup.task.max_decisions,
            policy=policy,
            final=final_keys(setup),
            deterministic=deterministic,
            progress=_both(setup, progress),
        )
    return judge(setup, rolled, num_codes, estimator), rolled


def _both(setup: Setup, progress: Callable[[int], None] | None) -> Callable[[int], None]:
    """Return what tells a caller and who watches the setup."""
    before = 0

    def tell(done: int) -> None:
        nonlocal before
        if progress is not None:
            progress(done)
        if setup.watch is not None:
            setup.watch(done - before)
        before = done

    return tell


@torch.no_grad()
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Judge a base policy or a run, sampled and deterministic; see :class:`EvaluateConfig`.

    Returns:
        ``{"sampled": {...}, "deterministic": {...}}``; the base has only ``sampled``.
    """
    setup = set_up(config.task, config.base)
    result: dict[str, Any] = {"base": config.base, "run": config.run, "task": setup.task.name}
    with Progress("evaluate", shown=config.log.progress) as progress:
        judge_it = _evaluate_base if config.run is None else _evaluate_run
        result |= judge_it(config, setup, progress)
    if config.out is not None:
        write_json(Path(config.out) / "evaluation.json", result)
    return result


def _evaluate_base(config: EvaluateConfig, setup: Setup, progress: Progress) -> dict[str, Any]:
    progress.phase("base", config.episodes)
    metrics, episodes = evaluate_policy(
        setup,
        setup.steered(1, 1.0),
        None,
        num_codes=1,
        episodes=config.episodes,
        seed=config.seed,
        progress=progress.update,
    )
    return {"sampled": metrics.to_dict() | {"clipped_share": episodes.clipped}}


def _evaluate_run(config: EvaluateConfig, setup: Setup, progress: Progress) -> dict[str, Any]:
    adapter = load_adapter(Path(config.run or "") / "adapter", setup.base)
    env, result = setup.steered(adapter.prior, 1.0), {}
    for name, deterministic in (("sampled", False), ("deterministic", True)):
        progress.phase(name, config.episodes)
        metrics, episodes = evaluate_policy(
            setup,
            env,
            adapter.steering,
            num_codes=discrete(adapter.prior).num_codes,
            episodes=config.episodes,
            seed=config.seed,
            estimator=adapter.estimator,
            deterministic=deterministic,
            progress=progress.update,
        )
        result[name] = metrics.to_dict() | {"clipped_share": episodes.clipped}
        if adapter.estimator is not None:
            result[name] |= adapter.estimator.figures(episodes.final)
    return result
