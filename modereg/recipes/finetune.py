"""Stage 2: reinforcement learning on the task's reward, with the intrinsic reward beside it.

Plain fine-tuning is this very recipe with one code. :func:`reinforce` is the loop, which the
variational stage 1 shares; folders, checkpoints, curves and progress are put around it by
:func:`~modereg.recipes.follow.follow`. Copy this file and change it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensordict import NestedKey, TensorDictBase
from torchrl.envs import RewardSum

from modereg import keys
from modereg.balances.base import Balance
from modereg.checkpoints import Adapter, save_adapter
from modereg.discovery import VariationalModeDiscoverer
from modereg.discovery.release import release
from modereg.errors import CheckpointError, ConfigurationError
from modereg.estimators import CategoricalMI, RewardEstimator
from modereg.learners.base import Learner, Problem
from modereg.modes import NAMES
from modereg.priors import CategoricalPrior, Prior
from modereg.reading import require_finite
from modereg.recipes.config import FinetuneConfig
from modereg.recipes.evaluate import (
    Judged,
    judging,
    keep_paths,
    steps_per_second,
    traced,
    worse_than_base,
    worse_than_start,
)
from modereg.recipes.events import Advanced, Evaluated, Event, Planned, Progressed, Steps
from modereg.recipes.runs import check_finished, check_origin, judged_figures
from modereg.recipes.setup import Setup, discrete, set_up
from modereg.recipes.subspace import choose_subspace, load_run
from modereg.rollouts import collect_episodes
from modereg.seeding import (
    derived_seed,
    generator_state,
    isolated_generators,
    set_generator_state,
)
from modereg.steering import SteeringPolicy
from modereg.transforms import MIReward
from modereg.wrapping import SteeredEnv, make_steering, observation_size

__all__ = [
    "Stage",
    "close",
    "finetune_steps",
    "fit_inputs",
    "fresh_discoverer",
    "learn",
    "make_stage",
    "reinforce",
]

NO_STEPS = (
    "Nothing is learned: expected env_steps of more than the {} that were taken before, those of "
    "the start included, got {}; give the sum of both"
)

NOTHING_LEARNED = (
    "nothing was learned: only {:.0%} of the decisions were collected with which learning begins; "
    "give more env_steps, or lower learner.prefill"
)
EVALUATION_SEED, FINAL_SEED = 10_000, 20_000
"""Added to a run's seed for the evaluations during it and at its end."""


@dataclass
class Stage:
    """What the loop works on.

    Attributes:
        setup: task and base.
        env: steered environment to learn on.
        judge_env: another one, to evaluate on, undiscounted.
        prior: p(z).
        steering: the policy.
        learner: collects and updates.
        estimator: q, None with a single code and nothing to infer.
        online: what trains q, None where it is frozen.
        mi_reward: pays the intrinsic reward on batches, None where there is none.
        balance: sets its weights, None where they stay.
        spent: environment steps that were spent before.
        base: shares of the outcomes that stage 1 saw of the base, by code and, with a label, by
            mode, and of how many episodes; empty where it saw none by this q.
        start: figures that were judged of the run it begins at; empty where there is none.
        names: a code of each mode that has a name, by the name.
        origin: names and fingerprints of what it all starts from.
    """

    setup: Setup
    env: SteeredEnv
    judge_env: SteeredEnv
    prior: Prior
    steering: SteeringPolicy
    learner: Learner
    estimator: RewardEstimator | None
    online: VariationalModeDiscoverer | None
    mi_reward: MIReward | None
    spent: int
    origin: dict[str, str | None]
    base: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    balance: Balance | None = None


def finetune_steps(config: FinetuneConfig, state: dict[str, Any] | None) -> Steps:
    """Run stage 2, from a checkpoint where there is one; return the summary."""
    setup = set_up(config.task, config.base, config.device)
    setup = yield from choose_subspace(setup, config.noise, config.seed, state)
    stage = make_stage(config, setup)
    if state is None and config.env_steps <= stage.spent:
        warnings.warn(NO_STEPS.format(stage.spent, config.env_steps), stacklevel=2)
    env_steps = yield from reinforce(
        stage,
        state,
        config.seed,
        done=lambda _, env_steps: env_steps >= config.env_steps,
        total=config.env_steps,
        eval_every=config.eval_every,
        eval_episodes=config.eval_episodes,
    )
    return (yield from close(stage, config, env_steps, method="finetune"))


def make_stage(config: FinetuneConfig, setup: Setup) -> Stage:
    """Take up what stage 1 gave, or begin at the base, and make the learner."""
    adapter = None
    if config.start is not None:
        adapter, setup = _load_start(config, config.start, setup)
    prior = CategoricalPrior(config.num_codes or 1) if adapter is None else discrete(adapter.prior)
    env, judge_env = setup.steered(prior), setup.steered(prior, 1.0)
    spent = setup.spent if adapter is None else int(adapter.extra["env_steps"])

    began: dict[str, Any] = {}
    if adapter is None or config.regulariser == "scratch":
        steering = make_steering(env, setup.base, prior, hidden=config.hidden).to(setup.device)
        spent += fit_inputs(env, steering, derived_seed(config.seed, 3))
    else:
        steering, began = adapter.steering.to(setup.device), judged_figures(str(config.start))
        if getattr(config.learner, "steers", True):
            spent += _let_all_learn(env, steering, derived_seed(config.seed, 5))
    if config.std is not None:
        steering.set_std(config.std)

    estimator, online, steps = _inference(config, setup, env, prior, adapter)
    spent += steps

    mi_reward, balance, reward_key = None, None, keys.REWARD
    if estimator is not None and prior.num_codes > 1:
        env.append_transform(RewardSum([keys.REWARD], [keys.EPISODE_REWARD]))
        mi_reward = MIReward(estimator, env.layout, timing=config.timing)
        balance = config.balance.make(
            mi_reward,
            env_steps=config.env_steps - spent,
            discovered=adapter is not None and config.regulariser == "discovered",
        )
        reward_key = keys.REGULARIZED_REWARD
    problem = Problem(env, steering, setup.base, reward_key, mi_reward, config.seed, config.hidden)
    learner = config.learner.make(problem)
    judge_env.set_residual(env.residual)  # which the learner may have made, and trains in place
    judge_env.set_decoder(env.tuned)  # likewise
    judge_env.set_step_residual(env.step_residual)
    return Stage(
        setup, env, judge_env, prior, steering, learner,
        estimator, online, mi_reward, spent,
        {"base": setup.fingerprint, "start": None if adapter is None else adapter.digest},
        {} if adapter is None or online is not None else adapter.extra.get("base", {}),
        began, {} if adapter is None else adapter.extra.get(NAMES, {}), balance,
    )  # fmt: skip


def _inference(
    config: FinetuneConfig, setup: Setup, env: SteeredEnv, prior: Prior, adapter: Adapter | None
) -> tuple[RewardEstimator | None, VariationalModeDiscoverer | None, int]:
    """Return q, what trains it where it learns, and the environment steps that its scale took."""
    if adapter is not None and adapter.estimator is not None:
        estimator = adapter.estimator.to(setup.device).requires_grad_(False)
        if config.discoverer != "online" and adapter.extra.get("method") != "variational":
            return estimator, None, 0
        online = VariationalModeDiscoverer(copy.deepcopy(estimator).requires_grad_(True))
        return online.estimator, online, 0
    if discrete(prior).num_codes == 1:
        return None, None, 0
    made = CategoricalMI(
        observation_size(env, [keys.HISTORY]),
        prior,
        hidden=config.hidden,
        noise=setup.task.feature_noise,
    ).to(setup.device)
    online, steps = fresh_discoverer(made, env, derived_seed(config.seed, 4))
    return online.estimator, online, steps


def reinforce(
    stage: Stage,
    state: dict[str, Any] | None,
    seed: int,
    *,
    done: Callable[[int, int], bool],
    total: int,
    eval_every: int,
    eval_episodes: int,
) -> Generator[Event, None, int]:
    """Collect, pay, learn and now and then evaluate, until ``done(batches, env_steps)``.

    Args:
        stage: what is trained, in place.
        state: of the last checkpoint, or None.
        seed: of the run.
        done: says when to stop.
        total: environment steps to expect.
        eval_every: batches between evaluations.
        eval_episodes: episodes of each.

    Returns:
        The environment steps, those before included.

    Raises:
        NonFiniteError: before anything learns from it, if a reward or an observation is not finite.
    """
    learner, batches, env_steps = stage.learner, 0, stage.spent
    if state is None:
        yield Planned(max(total - env_steps, 0), steps_per_second(stage.judge_env))
    else:
        batches, env_steps = _restore(stage, state)
    yield Progressed("training", env_steps, max(total, env_steps))
    row: dict[str, Any] = {}
    while not done(batches, env_steps):
        batch = learner.collect()
        require_finite(batch, _read(stage, learner), f"batch {batches + 1} of the run")
        env_steps += int(batch.get(("next", keys.STEPS)).sum())
        row = {"iteration": batches, "env_steps": env_steps} | learn(stage, batch)
        batches += 1
        judged: dict[str, Any] = {}
        if batches % eval_every == 0:
            judged, _ = yield from _judged(stage, eval_episodes, seed + EVALUATION_SEED)
        saves = batches % learner.checkpoint_every == 0
        saved = (lambda: _state(stage, batches, env_steps)) if saves else None  # noqa: B023
        yield Advanced("training", row | judged, env_steps, max(total, env_steps), saved)
        if judged:
            yield Evaluated(env_steps, judged)
    if row.get("prefilled", 1.0) < 1.0:
        warnings.warn(NOTHING_LEARNED.format(row["prefilled"]), stacklevel=2)
    return env_steps


def learn(stage: Stage, batch: TensorDictBase) -> dict[str, float]:
    """Pay the intrinsic reward on a batch, and update policy, critic and, if it learns, q.

    Args:
        stage: what is trained, in place.
        batch: transitions ``[B, T]`` of the learner.

    Returns:
        Figures of the batch: those of q begin with ``q_``.
    """
    figures = {
        "clipped_share": float(batch.get(("next", keys.CLIPPED)).mean()),
        "reward": float(batch.get(("next", keys.REWARD)).mean()),
    }
    if stage.online is not None:  # q learns from a batch before it pays for it
        stage.online.observe(batch)
        figures |= {f"q_{name}": value for name, value in stage.online.update().items()}
    if stage.balance is not None:
        figures |= stage.balance.update(batch)
    if stage.mi_reward is not None:
        batch = stage.mi_reward(batch)
        figures["mi_reward"] = float(batch.get(("next", keys.MI_REWARD)).mean())
    return figures | stage.learner.update(batch)


def close(stage: Stage, config: Any, env_steps: int, *, method: str) -> Steps:
    """Save the adapter, judge it sampled and deterministic, and return the summary."""
    adapter = Adapter(
        steering=stage.steering,
        estimator=stage.estimator,
        prior=stage.prior,
        layout=stage.env.layout,
        base_reference=stage.setup.reference,
        base_fingerprint=stage.setup.fingerprint,
        extra={"method": method, "env_steps": env_steps, "base": stage.base}
        | ({NAMES: stage.names} if stage.names else {}),
        residual=stage.env.residual,
        tuned=None if stage.env.tuned is None else stage.env.tuned.weights(),
        step_residual=stage.env.step_residual,
    )
    save_adapter(Path(config.out) / "adapter", adapter)
    summary: dict[str, Any] = {"method": method, "env_steps": env_steps}
    count, seed = config.final_episodes, config.seed + FINAL_SEED
    mean, _ = yield from _judged(stage, count, seed, deterministic=True, phase="judging, mean")
    trace = traced(stage.setup, stage.judge_env)
    judged = yield from _judged(stage, count, seed, phase="judging, sampled")
    keep_paths(config, stage.setup, stage.steering, trace, judged, seed)
    worse = worse_than_base(stage.base, judged[1], stage.prior, stage.estimator)
    lost = worse_than_start(stage.start, judged[0])
    for sentence in [*worse, *lost]:
        warnings.warn(sentence, stacklevel=2)
    if stage.env.tuned is not None:
        stage.env.tuned.save_whole(Path(config.out) / "policy")
    found: dict[str, Any] = {"worse_than_base": worse} if stage.base else {}
    found |= {"worse_than_start": lost} if stage.start else {}
    return summary | found | {"sampled": judged[0], "deterministic": mean}


def fit_inputs(env: SteeredEnv, steering: SteeringPolicy, seed: int) -> int:
    """Standardise the steering policy's inputs by some episodes of the base.

    Returns:
        The environment steps that it took.
    """
    env.set_seed(seed)
    episodes = collect_episodes(
        env, min(env.batch_size.numel(), 512), keep=steering.observation_keys
    )
    steering.fit_inputs(episodes.flat())
    return episodes.spent


def _let_all_learn(env: SteeredEnv, steering: SteeringPolicy, seed: int) -> int:
    """Hold no code at the base any more; return the environment steps that this took."""
    if bool(steering.head.steered.all()):
        return 0
    env.set_seed(seed)
    with isolated_generators(seed):
        episodes = collect_episodes(
            env, min(env.batch_size.numel(), 512), keep=steering.observation_keys
        )
        release(steering, episodes.flat())
    return episodes.spent


def fresh_discoverer(
    estimator: RewardEstimator, env: SteeredEnv, seed: int
) -> tuple[VariationalModeDiscoverer, int]:
    """Return what trains an estimator, its features scaled by some episodes of the base.

    Returns:
        The discoverer, and the environment steps that its scale took.
    """
    online = VariationalModeDiscoverer(estimator)
    env.set_seed(seed)
    episodes = collect_episodes(
        env, min(env.batch_size.numel(), 512), final=[keys.HISTORY, keys.LATENT]
    )
    final = episodes.final
    online.fit(final.select(keys.LATENT).set("next", final.select(keys.HISTORY)))
    return online, episodes.spent


def _load_start(config: FinetuneConfig, start: str, setup: Setup) -> tuple[Adapter, Setup]:
    check_finished(Path(start))
    adapter, setup = load_run(start, setup)
    if adapter.extra.get("commanded") == 0 and not config.accept_uncommanded:
        raise ConfigurationError(
            f"expected a start whose codes command something, got {start}, of which none does (its "
            "summary.json has a verdict on each); fine-tuning from it would keep nothing: give "
            "discover more episodes or other features, fine-tune plainly without --start, or add "
            "--accept-uncommanded to go on"
        )
    return adapter, setup


def _judged(
    stage: Stage, episodes: int, seed: int, **options: Any
) -> Generator[Event, None, Judged]:
    return (
        yield from judging(
            stage.setup,
            stage.judge_env,
            stage.steering,
            num_codes=discrete(stage.prior).num_codes,
            episodes=episodes,
            seed=seed,
            estimator=stage.estimator,
            **({"phase": "evaluating"} | options),
        )
    )


def _read(stage: Stage, learner: Learner) -> list[NestedKey]:
    """Entries that must be finite: rewards, and what steering policy and critic read."""
    observed = stage.steering.observation_keys
    after = [("next", key) if isinstance(key, str) else ("next", *key) for key in observed]
    return [("next", keys.REWARD), *observed, *after]


def _state(stage: Stage, batches: int, env_steps: int) -> dict[str, Any]:
    return {
        "origin": stage.origin,
        "noise_basis": stage.env.layout.noise_basis,
        "batches": batches,
        "env_steps": env_steps,
        "learner": stage.learner.state_dict(),
        "balance": None if stage.balance is None else stage.balance.state_dict(),
        "online": None if stage.online is None else dict(stage.online.state_dict()),
        "generators": generator_state(),
    }


def _restore(stage: Stage, state: dict[str, Any]) -> tuple[int, int]:
    check_origin(state, stage.origin)
    stage.learner.load_state_dict(state["learner"])
    if stage.balance is not None:
        if "balance" not in state:
            raise CheckpointError(
                "expected a checkpoint with a balance of the rewards, got one that was made before "
                "there were any; begin the run again in another folder"
            )
        stage.balance.load_state_dict(state["balance"])
    if stage.online is not None:
        stage.online.load_state_dict(state["online"])
    set_generator_state(state["generators"])
    return state["batches"], state["env_steps"]
