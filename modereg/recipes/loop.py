"""The loop of reinforcement learning on a steered environment, shared by both stages.

Each iteration collects a batch from seeded resets, pays the intrinsic reward on it, updates, now
and then evaluates, and closes with a checkpoint. Copy this file and change it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from modereg import keys
from modereg.checkpoints import Adapter, save_adapter
from modereg.discovery import VariationalModeDiscoverer
from modereg.estimators import RewardEstimator
from modereg.networks import MLP
from modereg.priors import Prior
from modereg.recipes.build import Setup, discrete
from modereg.recipes.evaluate import evaluate_policy
from modereg.recipes.events import Evaluated, Event, drain
from modereg.recipes.ppo import PPO, fit_features
from modereg.recipes.runs import Run, seed_everything
from modereg.recipes.summaries import Summary
from modereg.rollouts import Episodes, collect_episodes
from modereg.steering import SteeringPolicy
from modereg.transforms import MIReward

__all__ = ["Stage", "close", "fit_to_base", "iterate", "judge_stage", "learn", "train"]

EVALUATION_SEED, FINAL_SEED = 10_000, 20_000
"""Added to a run's seed for the evaluations during it and at its end."""


@dataclass
class Stage:
    """What the loop works on.

    Attributes:
        env: steered environment.
        prior: p(z).
        steering: the policy.
        learner: collects and updates.
        estimator: q, None with a single code and nothing to infer.
        online: what trains q, None where it is frozen.
        mi_reward: pays the intrinsic reward on batches, None where there is none.
        start_steps: environment steps that were spent before.
    """

    env: EnvBase
    prior: Prior
    steering: SteeringPolicy
    learner: PPO
    estimator: RewardEstimator | None
    online: VariationalModeDiscoverer | None
    mi_reward: MIReward | None
    start_steps: int


def train(
    run: Run,
    setup: Setup,
    stage: Stage,
    *,
    done: Callable[[int, int], bool],
    total: int,
    eval_every: int,
    eval_episodes: int,
) -> int:
    """Go through :func:`iterate` to its end; return the environment steps."""
    return drain(
        iterate(
            run, setup, stage,
            done=done, total=total, eval_every=eval_every, eval_episodes=eval_episodes,
        )
    )  # fmt: skip


def iterate(
    run: Run,
    setup: Setup,
    stage: Stage,
    *,
    done: Callable[[int, int], bool],
    total: int,
    eval_every: int,
    eval_episodes: int,
) -> Generator[Event, None, int]:
    """Iterate from the last checkpoint until ``done(iteration, env_steps)``.

    Args:
        run: the run folder.
        setup: task and base.
        stage: what is trained, in place.
        done: says when to stop.
        total: environment steps to expect, for the estimate of the remaining time.
        eval_every: iterations between evaluations.
        eval_episodes: episodes of each.

    Yields:
        An event after each iteration, and one after each evaluation.

    Returns:
        The environment steps.
    """
    iteration, env_steps = _restore(run, stage)
    run.phase("training", max(total, env_steps), env_steps)
    while not done(iteration, env_steps):
        batch = stage.learner.collect(run.config.seed, iteration)
        env_steps += int(batch.get(("next", keys.STEPS)).sum())
        row = {"iteration": iteration, "env_steps": env_steps} | learn(stage, batch)
        iteration += 1
        judged: dict[str, Any] = {}
        if iteration % eval_every == 0:
            judged, _ = judge_stage(setup, stage, eval_episodes, run.config.seed + EVALUATION_SEED)
        run.log(row | judged)
        run.checkpoint(_state(stage, iteration, env_steps))
        run.progress(env_steps, max(total, env_steps), **_shown(run.rows))
        yield run.advanced()
        if judged:
            yield Evaluated(env_steps, judged)
    return env_steps


def learn(stage: Stage, batch: TensorDictBase) -> dict[str, float]:
    """Pay the intrinsic reward on a collected batch, update policy, critic and, if it learns, q.

    Args:
        stage: what is trained, in place; q learns from the batch before it pays for it.
        batch: transitions ``[B, T]`` of ``stage.learner.collect``.

    Returns:
        Figures of the iteration: those of q begin with ``q_``.
    """
    figures = {
        "clipped_share": float(batch.get(("next", keys.CLIPPED)).mean()),
        "reward": float(batch.get(("next", keys.REWARD)).mean()),
    }
    if stage.online is not None:
        stage.online.observe(batch)
        figures |= {f"q_{name}": value for name, value in stage.online.update().items()}
    if stage.mi_reward is not None:
        batch = stage.mi_reward(batch)
        figures["mi_reward"] = float(batch.get(("next", keys.MI_REWARD)).mean())
        figures["coef"] = round(float(stage.mi_reward.coef), 7)  # of float32
    return figures | stage.learner.update(batch)


def judge_stage(
    setup: Setup,
    stage: Stage,
    episodes: int,
    seed: int,
    *,
    deterministic: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Any], Episodes]:
    """Return the figures of the one evaluation path, and the episodes behind them.

    They are rolled out without a discount, which training puts on the rewards within a chunk.

    Raises:
        ConfigurationError: if the codes are continuous, so that there are no figures of each.
    """
    metrics, rolled = evaluate_policy(
        setup,
        setup.steered(stage.prior, 1.0),
        stage.steering,
        num_codes=discrete(stage.prior).num_codes,
        episodes=episodes,
        seed=seed,
        estimator=stage.estimator,
        deterministic=deterministic,
        progress=progress,
    )
    figures = metrics.to_dict() | {"clipped_share": rolled.clipped}
    if stage.estimator is not None:
        figures |= stage.estimator.figures(rolled.final)
    return figures, rolled


def fit_to_base(
    setup: Setup, env: EnvBase, steering: SteeringPolicy, critic: Any, seed: int
) -> int:
    """Standardise the networks' inputs by some episodes of the base.

    Returns:
        The environment steps that it took.
    """
    env.set_seed(seed_everything(seed, 3))
    episodes = collect_episodes(
        env,
        min(setup.num_envs, 512),
        max_decisions=setup.task.max_decisions,
        keep=setup.steering_keys,
    )
    observed = episodes.flat(torch.ones(len(episodes), dtype=torch.bool))
    values = torch.cat([observed.get(key).flatten(1) for key in setup.steering_keys], -1)
    fit_features(values, cast(MLP, steering.head.network), critic.module)
    return episodes.spent


def _restore(run: Run, stage: Stage) -> tuple[int, int]:
    state = run.load()
    if state is None:
        return 0, stage.start_steps
    stage.learner.load_state_dict(state["learner"])
    if stage.online is not None:
        stage.online.load_state_dict(state["online"])
    return state["iteration"], state["env_steps"]


def _state(stage: Stage, iteration: int, env_steps: int) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "env_steps": env_steps,
        "learner": stage.learner.state_dict(),
        "online": None if stage.online is None else dict(stage.online.state_dict()),
    }


def _shown(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the newest success, entropy and bound for the progress bar."""
    names = {"success": "success", "entropy": "entropy", "bound": "bound"}
    shown = {}
    for label, name in names.items():
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            shown[label] = values[-1]
    return shown


def close(
    run: Run, setup: Setup, stage: Stage, env_steps: int, *, method: str, episodes: int
) -> Summary:
    """Save the adapter, judge it sampled and deterministic, and write the summary."""
    adapter = Adapter(
        steering=stage.steering,
        estimator=stage.estimator,
        prior=stage.prior,
        base_reference=setup.reference,
        base_fingerprint=setup.fingerprint,
        extra={"method": method, "env_steps": env_steps},
    )
    save_adapter(Path(run.config.out) / "adapter", adapter)
    summary: dict[str, Any] = {"method": method, "env_steps": env_steps}
    run.phase("judging", 2 * episodes)
    for before, name in enumerate(("sampled", "deterministic")):
        summary[name], _ = judge_stage(
            setup,
            stage,
            episodes,
            run.config.seed + FINAL_SEED,
            deterministic=name == "deterministic",
            progress=_shown_from(run, before * episodes),
        )
    return run.finish(summary)


def _shown_from(run: Run, before: int) -> Callable[[int], None]:
    """Return what shows the progress of a part that begins after so many of the whole."""
    return lambda done: run.progress(before + done)
