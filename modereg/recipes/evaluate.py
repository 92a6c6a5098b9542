"""The one evaluation path: what draws the training curves is what ``modereg evaluate`` runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from modereg import keys
from modereg.discovery.judge import outcome_shares, reached
from modereg.discovery.verdict import losses
from modereg.errors import ConfigurationError
from modereg.estimators import CategoricalMI, RewardEstimator
from modereg.files import write_json
from modereg.metrics import BehaviourMetrics, behaviour_metrics
from modereg.paths import Trace, path_key, save_paths
from modereg.priors import Prior
from modereg.recipes.config import DiscoverConfig, EvaluateConfig, FinetuneConfig, TaskConfig
from modereg.recipes.config.text import read_config
from modereg.recipes.events import Event, counted, drain
from modereg.recipes.progress import Progress
from modereg.recipes.setup import Setup, check_trust, discrete, set_up
from modereg.recipes.subspace import load_run
from modereg.rollouts import Episodes, iterate_episodes
from modereg.seeding import derived_seed, isolated_generators
from modereg.steering import SteeringPolicy
from modereg.wrapping import SteeredEnv

__all__ = [
    "Judged",
    "evaluate",
    "evaluate_policy",
    "judge",
    "judging",
    "keep_paths",
    "steps_per_second",
    "traced",
    "worse_than_base",
    "worse_than_start",
]

Policy = Callable[[TensorDictBase], TensorDictBase]
Judged = tuple[dict[str, Any], Episodes]


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


@torch.no_grad()
def judging(
    setup: Setup,
    env: EnvBase,
    policy: Policy | None,
    *,
    num_codes: int,
    episodes: int,
    seed: int,
    estimator: RewardEstimator | None = None,
    deterministic: bool = False,
    phase: str = "judging",
) -> Generator[Event, None, Judged]:
    """Roll out whole episodes with codes from the prior, tell how many, and judge them.

    The policy is the base where it is None, and steers by its mean noise if ``deterministic``;
    ``estimator`` is q, which reads the code off each episode. The global generators are left as
    they were.

    Returns:
        The figures, as they go to ``summary.json``, and the episodes behind them.
    """
    with isolated_generators(derived_seed(seed, int(deterministic))):
        env.set_seed(derived_seed(seed, int(deterministic), 1))
        parts = iterate_episodes(
            env,
            episodes,
            policy=policy,
            final=setup.final_keys(env),
            deterministic=deterministic,
        )
        rolled = yield from counted(phase, episodes, parts)
    figures = judge(setup, rolled, num_codes, estimator).to_dict()
    figures["clipped_share"] = rolled.clipped
    return figures | ({} if estimator is None else estimator.figures(rolled.final)), rolled


def evaluate_policy(
    setup: Setup,
    env: EnvBase,
    policy: Policy | None,
    *,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Judged:
    """Judge a policy: :func:`judging` to its end; ``progress`` is told the episodes so far."""
    return drain(judging(setup, env, policy, **options), progress)


def worse_than_base(
    base: Mapping[str, Any], episodes: Episodes, prior: Prior, estimator: RewardEstimator | None
) -> list[str]:
    """Return a sentence on each thing in which episodes are worse than the base's of stage 1.

    Behaviours are told apart by the label, where there is one, and else by q; by q too where the
    prior leaves codes out, which nobody misses.

    Args:
        base: what stage 1 saw of it (see :class:`~modereg.recipes.finetune.Stage`); empty for none.
        episodes: that were judged.
        prior: that their codes were drawn from.
        estimator: q; None tells nothing.
    """
    if not base or estimator is None:
        return []
    found, solved = reached(episodes.final, estimator)
    modes = episodes.final.get(keys.MODE, None)
    probs = discrete(prior).probs
    if modes is not None and base.get("modes") is not None and bool((probs > 0).all()):
        before = torch.tensor(base["modes"], device=found.device)
        shares = outcome_shares(modes.squeeze(-1), solved, len(before) - 1)
        return list(losses(shares, before, len(episodes), base["episodes"], of="mode"))
    before = torch.tensor(base["outcomes"], device=found.device)
    shares = outcome_shares(found, solved, len(before) - 1)
    drawn = torch.cat([probs, probs.new_zeros(1)]).to(found.device)
    shares, before, drawn = (_merged(each, estimator) for each in (shares, before, drawn))
    wanted = drawn[:-1] > 0
    return list(losses(shares, before, len(episodes), base["episodes"], wanted=wanted))


def worse_than_start(start: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return a sentence on each thing in which a fine-tuning ends worse than where it began.

    Success counts as lower from two standard errors of the difference.

    Args:
        start: what was judged at the end of the run that it began at, with sampled noise.
        found: the same at its own end.
    """
    sentences = []
    before, after = start.get("success"), found.get("success")
    if before is not None and after is not None:
        error = math.hypot(start["success_error"], found["success_error"])
        if before - after > 2 * error:
            sentences.append(f"success {after:.3f} beside {before:.3f}")
    for name in ("present", "commandable"):
        before, after = start.get(f"{name}_modes"), found.get(f"{name}_modes")
        if before is not None and after is not None and after < before:
            sentences.append(f"{after} modes {name} beside {before}")
    return [f"Worse than its start: {each}" for each in sentences]


def _merged(shares: Tensor, estimator: RewardEstimator) -> Tensor:
    """Return shares of outcomes ``[K + 1]`` with those of merged codes at their first."""
    if not isinstance(estimator, CategoricalMI):
        return shares
    places = torch.cat([estimator.groups, estimator.groups.new_tensor([len(shares) - 1])])
    return torch.zeros_like(shares).index_add(0, places, shares)


def traced(setup: Setup, env: SteeredEnv) -> Trace:
    """Let an environment remember where episodes go, for :func:`keep_paths`."""
    trace = Trace.of(setup.task, env)
    env.insert_transform(0, trace)
    return trace


def keep_paths(
    config: DiscoverConfig | FinetuneConfig,
    setup: Setup,
    steering: SteeringPolicy,
    trace: Trace,
    judged: Judged,
    seed: int,
) -> None:
    """Keep judged episodes in the run's folder, so that its page rolls none out again."""
    key = path_key(setup.task, config.task.options, setup.num_envs, setup.fingerprint, steering)
    save_paths(Path(config.out), key, trace.paths(judged[1]), judged[0], seed=seed)


def steps_per_second(env: EnvBase, decisions: int = 3) -> float:
    """Return how many environment steps a second the base policy alone makes, over all rows.

    The global generators are left as they were.

    Args:
        env: steered environment, which is reset.
        decisions: how many are timed, after one that is not.
    """
    with isolated_generators(), torch.no_grad():
        carrier = env.step_and_maybe_reset(env.rand_action(env.reset()))[1]
        began, steps = time.perf_counter(), 0
        for _ in range(decisions):
            step, carrier = env.step_and_maybe_reset(env.rand_action(carrier))
            steps += int(step.get(("next", keys.STEPS)).sum())
    return steps / (time.perf_counter() - began)


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Judge a base policy or a run, sampled and deterministic; see :class:`EvaluateConfig`.

    A run is judged on the task, the layout and the base that its ``config.yaml`` has.

    Returns:
        ``{"sampled": {...}, "deterministic": {...}}``; the base has only ``sampled``.

    Raises:
        ConfigurationError: if the run names code to import that is neither trusted nor named again.
    """
    task, base = config.task, config.base or "runs/base"
    if config.run is not None:
        task, base = _of_run(config, config.run)
    setup = set_up(task, base, config.device)
    result: dict[str, Any] = {"base": base, "run": config.run, "task": setup.task.name}
    with Progress("evaluate", shown=config.log.progress) as progress:
        result |= _judge_all(config, setup, progress)
    if config.out is not None:
        write_json(Path(config.out) / "evaluation.json", result)
    return result


def _of_run(config: EvaluateConfig, folder: str) -> tuple[TaskConfig, str]:
    """Return task and base of a run, as far as they are not named again."""
    made = read_config(Path(folder))
    if not isinstance(made, DiscoverConfig | FinetuneConfig):
        raise ConfigurationError(
            f"expected a run of discover or finetune, got {folder}, which made a base; judge it "
            f"with --base {Path(folder) / 'policy'}"
        )
    usual = TaskConfig()
    given = {entry.name: getattr(config.task, entry.name) for entry in fields(usual)}
    named = {name: value for name, value in given.items() if value != getattr(usual, name)}
    check_trust(
        f"the config.yaml in {folder}",
        task="task:named again" if "name" in named else made.task.name,
        base=made.base if config.base is None else "named again",
        trust=config.trust_code,
    )
    return replace(made.task, **named), config.base or made.base


def _judge_all(config: EvaluateConfig, setup: Setup, progress: Progress) -> dict[str, Any]:
    prior: Any = 1
    policy, estimator, ways = None, None, {"sampled": False}
    if config.run is not None:
        adapter, setup = load_run(config.run, setup)
        steering, prior, estimator = adapter.steering, discrete(adapter.prior), adapter.estimator
        policy = steering.to(setup.device)
        estimator = None if estimator is None else estimator.to(setup.device)
        ways["deterministic"] = True
    env, result = setup.steered(prior, 1.0), {}
    for name, deterministic in ways.items():
        progress.phase(name, config.episodes)
        result[name], _ = evaluate_policy(
            setup,
            env,
            policy,
            num_codes=1 if config.run is None else prior.num_codes,
            episodes=config.episodes,
            seed=config.seed,
            estimator=estimator,
            deterministic=deterministic,
            progress=progress.update,
        )
    return result
