"""Stage 1: find the modes of a frozen base policy, and a steering policy that commands them.

One function a method, each read from top to bottom; folders, checkpoints, curves and progress are
put around them by :func:`~modereg.recipes.follow.follow`. Copy this file and change it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from modereg import keys
from modereg.checkpoints import Adapter, save_adapter
from modereg.discovery import (
    ClusterModeDiscoverer,
    GuidedDiscovery,
    SelfImitation,
    decision_entries,
)
from modereg.discovery.judge import CodeJudge
from modereg.discovery.stage1 import (
    A_CHOICE,
    AGAIN,
    Rounds,
    choose_again,
    choose_codes,
    episodes_of_a_round,
    shows_too_few,
)
from modereg.estimators import RewardEstimator, estimator_class
from modereg.learners.base import Problem
from modereg.priors import CategoricalPrior
from modereg.recipes.config import (
    ClusterConfig,
    DiscoverConfig,
    GuidedConfig,
    VariationalConfig,
)
from modereg.recipes.evaluate import (
    Judged,
    judge,
    judging,
    keep_paths,
    steps_per_second,
    traced,
    worse_than_base,
)
from modereg.recipes.events import Advanced, Event, Planned, Progressed, Steps, counted
from modereg.recipes.features import choose_features, keep_features, looking_at
from modereg.recipes.finetune import Stage, close, fit_inputs, fresh_discoverer, reinforce
from modereg.recipes.runs import check_origin
from modereg.recipes.setup import Setup, set_up
from modereg.recipes.subspace import choose_subspace
from modereg.rollouts import Episodes, iterate_episodes
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
    "affordable_episodes",
    "discover_clusters",
    "discover_steps",
    "discover_variational",
    "stage_of",
    "variational_stage",
]

Clustered = GuidedConfig | ClusterConfig

CLASSIFIER_STEPS = 800
"""Gradient steps of the discoverer on the clusters."""

DEFAULT_CODES = 16
"""Codes of the variational method."""

USUAL, FEWEST, LONG = 2048, 512, 1800.0
"""Episodes of the base where nobody asked for a number, the least of them, and the seconds that
they may take before there are fewer."""

JUDGED = 4096
"""Episodes that judge the result at most, where nobody asked for a number."""


def discover_steps(config: DiscoverConfig, state: dict[str, Any] | None) -> Steps:
    """Run stage 1, from a checkpoint where there is one; return the summary."""
    setup = set_up(config.task, config.base, config.device)
    setup = yield from choose_subspace(setup, config.noise, config.seed, state)
    if isinstance(config.method, VariationalConfig):
        return (yield from discover_variational(config, config.method, setup, state))
    return (yield from discover_clusters(config, config.method, setup, state))


def discover_clusters(
    config: DiscoverConfig, method: Clustered, setup: Setup, state: dict[str, Any] | None
) -> Steps:
    """Cluster the base's episodes, then learn to command the clusters: roll out and fit again."""
    if state is None:
        state = yield from _partition(config, method, setup)
    else:
        check_origin(state, {"base": setup.fingerprint})
    setup = looking_at(setup, state["feature_dims"])
    stage, env = stage_of(config, method, setup, state)
    discoverer, steering = stage.discoverer, stage.steering
    set_generator_state(state["generators"])

    def saved() -> dict[str, Any]:
        now = {"steering": dict(steering.state_dict()), "generators": generator_state()}
        return state | now | stage.state_dict()

    if "episodes" in state:
        yield Progressed("first fit")
        base = Episodes.from_dict(state.pop("episodes")).to(setup.device)
        row = {"phase": "fit", "env_steps": state["env_steps"]} | stage.begin(base)
        yield Advanced("first fit", row, 1, 1, saved)
    num_envs = env.batch_size.numel()
    episodes = episodes_of_a_round(discoverer.num_codes, num_envs, method.refine_episodes)
    residual = _residual(method)
    rounds = Rounds(method.refinements, method.std, method.target, residual=residual > 0)
    for figures in state["progress"]:
        rounds.see(figures, episodes)
    while not rounds.over:
        if rounds.moved and stage.residual is None:
            yield Progressed("residual on the chunks")
            cast(GuidedDiscovery, stage).add_residual(residual)
        number = state["refined"]
        env.set_seed(derived_seed(config.seed, 2, number))
        what = "residual" if rounds.moved else "refinement"
        yield Progressed(f"{what} {rounds.number + 1} of at most {method.refinements}")
        now, later = rounds.spread
        figures, rolled = stage.refine(env, episodes, std=now, next_std=later)
        rounds.see(figures, episodes)
        state["progress"].append({name: figures[name] for name in ("hits", "commanded")})
        state["refined"] = number + 1
        state["env_steps"] += rolled.spent
        row = {"phase": "refine", "env_steps": state["env_steps"]} | figures
        row |= discoverer.estimator.figures(rolled.final) | {"clipped_share": rolled.clipped}
        yield Advanced("refinements", row, number + 1, method.refinements, saved)

    env.set_seed(derived_seed(config.seed, 3))
    yield Progressed("choosing codes")
    state["env_steps"] += choose_codes(stage, env, method.std[1], method.refine_episodes)
    return (yield from _close(config, method, setup, stage, env, state))


def _close(
    config: DiscoverConfig,
    method: Clustered,
    setup: Setup,
    stage: CodeJudge,
    env: SteeredEnv,
    state: dict[str, Any],
) -> Steps:
    """Judge what is kept, save it as an adapter, and return the summary."""
    kept, judged = yield from _judged(config, method, setup, stage, env, state)
    estimator = stage.discoverer.estimator
    base = {
        "outcomes": stage.base_outcomes.tolist(),
        "modes": state.get("base_modes"),
        "episodes": stage.base_episodes,
    }
    verdict = stage.verdict(kept)
    if base["modes"] is not None:  # what is lost within a code the label alone can tell
        worse = worse_than_base(base, judged[1], estimator.prior, estimator)
        verdict = verdict.with_losses(worse)
    adapter = Adapter(
        steering=stage.steering,
        estimator=estimator,
        prior=estimator.prior,
        layout=setup.layout,
        base_reference=setup.reference,
        base_fingerprint=setup.fingerprint,
        extra={
            "method": method.name,
            "env_steps": state["env_steps"],
            "commanded": kept["commanded"],
            "base": base,
        },
        residual=stage.residual,
    )
    save_adapter(Path(config.out) / "adapter", adapter)
    return {
        "method": method.name,
        "env_steps": state["env_steps"],
        "refinements": state["refined"],
        "commanded_codes": kept["commanded"],
        "steered_codes": float(stage.steering.head.steered.mean()),
        "partition": state["partition"],
        "feature_dims": state["feature_dims"],
        "verdict": verdict.to_dict(),
        "sampled": judged[0],
    }


def _judged(
    config: DiscoverConfig,
    method: Clustered,
    setup: Setup,
    stage: CodeJudge,
    env: SteeredEnv,
    state: dict[str, Any],
) -> Generator[Event, None, tuple[dict[str, float], Judged]]:
    """Judge what is kept, on fresh episodes where they made codes be chosen again; keep paths.

    Returns:
        The figures of the stage, and what was judged.
    """
    trace, discoverer, seed = traced(setup, env), stage.discoverer, config.seed + 10_000
    for number in range(1, AGAIN + 2):
        trace.forget()
        judged = yield from judging(
            setup,
            env,
            stage.steering,
            num_codes=discoverer.num_codes,
            episodes=config.final_episodes or min(JUDGED, 2 * state["asked"]),
            seed=seed,
            estimator=discoverer.estimator,
        )
        kept = stage.judge(judged[1])
        if number > AGAIN or not choose_again(stage, method.std[1]):
            break
        state["env_steps"] += judged[1].spent
        seed = derived_seed(config.seed, 6, number)
    keep_paths(config, setup, stage.steering, trace, judged, seed)
    return kept, judged


def stage_of(
    config: DiscoverConfig, method: Clustered, setup: Setup, state: dict[str, Any]
) -> tuple[CodeJudge, SteeredEnv]:
    """Return the method at work, and its environment, as the state has them."""
    num_codes, feature_dim = state["discoverer"]["centroids"].shape
    with isolated_generators(derived_seed(config.seed, 1)):  # whether it begins here or goes on
        discoverer = ClusterModeDiscoverer(
            feature_dim, num_codes, noise=state["noise"], hidden=config.hidden
        ).to(setup.device)
        env = setup.steered(discoverer.prior, 1.0)
        steering = make_steering(env, setup.base, discoverer.prior, hidden=config.hidden)
        steering = steering.to(setup.device)
        discoverer.load_state_dict(state["discoverer"])
        stage = _method(method, env, steering, discoverer)
        if "episodes" not in state:
            stage.load_state_dict(state)
    if "steering" in state:
        steering.load_state_dict(state["steering"])
    return stage, env


def _method(
    method: Clustered,
    env: SteeredEnv,
    steering: SteeringPolicy,
    discoverer: ClusterModeDiscoverer,
) -> CodeJudge:
    if isinstance(method, GuidedConfig):
        names = ("outcome_steps", "guide_steps", "student_steps")
        options: dict[str, Any] = {name: getattr(method, name) for name in names}
        return GuidedDiscovery(env, steering, discoverer, labels=(keys.MODE,), **options)
    names = ("imitation_steps", "refine_steps", "validation")
    options = {name: getattr(method, name) for name in names}
    return SelfImitation(steering, discoverer, labels=(keys.MODE,), **options)


def _partition(config: DiscoverConfig, method: Clustered, setup: Setup) -> Any:
    """Roll out the base, cluster its episodes, and return the state that later steps share."""
    env = setup.steered(1, 1.0)
    speed = steps_per_second(env)
    asked = method.episodes or affordable_episodes(speed / setup.layout.max_steps)
    yield Planned(_most_steps(config, method, setup, asked), speed)
    env.set_seed(derived_seed(config.seed, 0))
    episodes = yield from _of_the_base(env, setup, asked)
    dims = choose_features(setup, config.task, episodes)
    episodes = keep_features(setup, episodes, dims)
    discoverer, figures = yield from _clusters(config, method, setup, episodes)
    while shows_too_few(figures, len(episodes), asked):
        more = yield from _of_the_base(env, setup, len(episodes))
        episodes = Episodes.cat([episodes, keep_features(setup, more, dims)])
        discoverer, figures = yield from _clusters(config, method, setup, episodes)
    state: dict[str, Any] = {
        "origin": {"base": setup.fingerprint},
        "noise_basis": setup.layout.noise_basis,
        "feature_dims": dims,
        "discoverer": dict(discoverer.state_dict()),
        "noise": discoverer.estimator.network.module.std,
        "episodes": episodes.to_dict(),
        "asked": asked,
        "refined": 0,
        "progress": [],
        "env_steps": setup.spent + episodes.spent,
        "partition": figures,
        "base_modes": _mode_shares(setup, episodes),
        "generators": generator_state(),
    }
    row = {"phase": "cluster", "env_steps": state["env_steps"]} | figures
    yield Advanced("clustering", row, 1, 1, lambda: state)
    return state


def _of_the_base(env: SteeredEnv, setup: Setup, number: int) -> Generator[Event, None, Episodes]:
    parts = iterate_episodes(env, number, keep=decision_entries(env), final=setup.final_keys(env))
    return (yield from counted("episodes of the base", number, parts))


def _clusters(
    config: DiscoverConfig, method: Clustered, setup: Setup, episodes: Episodes
) -> Generator[Event, None, tuple[ClusterModeDiscoverer, dict[str, float]]]:
    """Return the discoverer of the base's behaviours, and its figures."""
    yield Progressed("clustering")
    success = episodes.final.get(keys.SUCCESS, None)
    return ClusterModeDiscoverer.from_episodes(
        episodes.final.get(keys.HISTORY),
        None if success is None else success.squeeze(-1),
        num_codes=config.num_codes,
        along_path=method.along_path,
        noise=setup.task.feature_noise,
        history_length=setup.layout.max_decisions + 1,
        hidden=config.hidden,
        seed=config.seed,
        steps=CLASSIFIER_STEPS,
    )


def _mode_shares(setup: Setup, episodes: Episodes) -> list[float] | None:
    """Return the shares of the modes among episodes, failures last; None without a label."""
    table = judge(setup, episodes, 1).code_mode_table
    if table is None:
        return None
    shares = [count / len(episodes) for count in table[0]]
    return [*shares, 1.0 - sum(shares)]


def affordable_episodes(episodes_per_second: float) -> int:
    """Return how many episodes of the base stage 1 begins with, where nobody asked for a number.

    2048; as many as half an hour is enough for in a slower environment, but no less than 512.
    """
    return min(USUAL, max(FEWEST, int(LONG * episodes_per_second)))


def _most_steps(config: DiscoverConfig, method: Clustered, setup: Setup, asked: int) -> int:
    """Return the environment steps that stage 1 may take, with codes as many as are likely.

    Args:
        config: options.
        method: options of the method.
        setup: task and base.
        asked: episodes of the base.
    """
    known = (config.num_codes or 1, setup.num_envs, method.refine_episodes)
    rounds = method.refinements * (1 + (_residual(method) > 0)) * episodes_of_a_round(*known)
    chosen = 2 * episodes_of_a_round(*known, A_CHOICE)
    return setup.layout.max_steps * (asked + rounds + chosen)


def _residual(method: Clustered) -> float:
    """Return the bound of the residual that is asked for, 0 for none."""
    return method.residual if isinstance(method, GuidedConfig) else 0.0


def discover_variational(
    config: DiscoverConfig, method: VariationalConfig, setup: Setup, state: dict[str, Any] | None
) -> Steps:
    """Maximise log q(z|s) - log p(z) by PPO while q learns beside it (BMD, arXiv 2605.11387)."""
    stage = variational_stage(config, method, setup)
    env_steps = yield from reinforce(
        stage,
        state,
        config.seed,
        done=lambda batches, _: batches >= method.iterations,
        total=method.iterations * setup.num_envs * setup.layout.max_steps,
        eval_every=method.eval_every,
        eval_episodes=method.eval_episodes,
    )
    judged = replace(config, final_episodes=config.final_episodes or JUDGED)
    return (yield from close(stage, judged, env_steps, method=method.name))


def variational_stage(
    config: DiscoverConfig,
    method: VariationalConfig,
    setup: Setup,
    *,
    estimator: RewardEstimator | None = None,
    steering: SteeringPolicy | None = None,
) -> Stage:
    """Return what the loop works on: PPO on the intrinsic reward alone, and q that learns beside.

    Args:
        config: options; ``num_codes`` counts only without an estimator.
        method: options of the method.
        setup: task and base.
        estimator: reads the history, pays and learns, not yet trained; it brings its prior. None
            makes the one that the method names.
        steering: where learning begins, fitted to observations, trained in place; None begins at
            the base.
    """
    if estimator is None:
        prior = CategoricalPrior(config.num_codes or DEFAULT_CODES)
        estimator = estimator_class(method.estimator, may_import=True)(
            observation_size(setup.steered(prior), [keys.HISTORY]),
            prior,
            hidden=config.hidden,
            noise=setup.task.feature_noise,
        ).to(setup.device)
    codes = estimator.prior
    env, judge_env = setup.steered(codes), setup.steered(codes, 1.0)
    online, spent = fresh_discoverer(estimator, env, derived_seed(config.seed, 4))
    spent += setup.spent
    if steering is None:
        steering = make_steering(env, setup.base, codes, hidden=config.hidden).to(setup.device)
        spent += fit_inputs(env, steering, derived_seed(config.seed, 3))
    mi_reward = MIReward(estimator, env.layout, timing=method.timing)
    problem = Problem(
        env, steering, setup.base, keys.MI_REWARD, mi_reward, config.seed, config.hidden
    )
    return Stage(
        setup, env, judge_env, codes, steering, method.ppo.make(problem),
        estimator, online, mi_reward, spent, {"base": setup.fingerprint},
    )  # fmt: skip
