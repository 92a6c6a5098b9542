"""Stage 1: find the modes of a frozen base policy, and a steering policy that commands them."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from torchrl.envs import EnvBase

from modereg import keys
from modereg.checkpoints import Adapter, save_adapter
from modereg.discovery import ClusterModeDiscoverer, SelfImitation, annealed
from modereg.discovery.self_imitation import as_rows
from modereg.recipes.build import Setup, set_up
from modereg.recipes.config import DiscoverConfig
from modereg.recipes.evaluate import evaluate_policy, final_keys
from modereg.recipes.events import Event, Finished, drain
from modereg.recipes.progress import counted_steps
from modereg.recipes.runs import Run, seed_everything
from modereg.recipes.summaries import Summary
from modereg.recipes.variational import discover_variational
from modereg.rollouts import Episodes, collect_episodes
from modereg.steering import SteeringPolicy
from modereg.wrapping import make_steering

__all__ = ["discover", "discover_events"]

CLASSIFIER_STEPS = 800
"""Gradient steps of the discoverer on the clusters."""


def discover(config: DiscoverConfig) -> Summary:
    """Run stage 1; see :class:`~modereg.recipes.config.DiscoverConfig`.

    Returns:
        The run's summary; the adapter lies in ``out/adapter``.
    """
    return drain(discover_events(config))


def discover_events(config: DiscoverConfig) -> Generator[Event, None, Summary]:
    """Run stage 1 step by step; :func:`~modereg.recipes.follow.follow` is the way to use it."""
    with Run(config) as run:
        yield run.started()
        summary = run.summary if run.finished else (yield from _find(run))
        yield Finished(run.folder, summary)
        return summary


def _find(run: Run) -> Generator[Event, None, Summary]:
    config: DiscoverConfig = run.config
    setup = set_up(config.task, config.base)
    if config.method == "variational":
        return (yield from discover_variational(run, setup))
    return (yield from _discover_clusters(run, setup))


def _discover_clusters(run: Run, setup: Setup) -> Generator[Event, None, Summary]:
    config: DiscoverConfig = run.config
    state = run.load()
    fresh = state is None
    if state is None:
        state = _partition(run, setup)
    discoverer = _restore_discoverer(config, state)
    env = setup.steered(discoverer.prior, 1.0)
    steering = make_steering(
        env, setup.base, discoverer.prior, setup.steering_keys, hidden=config.hidden
    )
    stage = _make_stage(config, setup, steering, discoverer)
    if fresh:
        _checkpoint(run, stage, state)
        yield run.advanced()
    else:
        steering.load_state_dict(state["steering"])
        stage.load_state_dict(state)
    if "data" in state:
        _first_fit(run, stage, state)
        yield run.advanced()
    for number in range(state["refined"], config.refinements):
        if state["commanded"] >= config.target:
            break
        _refine(run, stage, env, state, number)
        yield run.advanced()
    return _close(run, setup, env, stage, state)


def _make_stage(
    config: DiscoverConfig,
    setup: Setup,
    steering: SteeringPolicy,
    discoverer: ClusterModeDiscoverer,
) -> SelfImitation:
    return SelfImitation(
        steering,
        discoverer,
        max_decisions=setup.task.max_decisions,
        validation=config.validation,
        labels=(keys.MODE,),
    )


def _partition(run: Run, setup: Setup) -> dict[str, Any]:
    """Roll out the base, cluster its episodes, and return the state that later steps share."""
    config: DiscoverConfig = run.config
    env = setup.steered(1, 1.0)
    env.set_seed(seed_everything(config.seed, 0))
    run.phase("episodes of the base", config.episodes)
    episodes = collect_episodes(
        env,
        config.episodes,
        max_decisions=setup.task.max_decisions,
        keep=[*setup.steering_keys, keys.ACTION],
        final=final_keys(setup),
        progress=run.progress,
    )
    discoverer, metrics = _cluster(run, setup, episodes)
    steering = make_steering(env, setup.base, discoverer.num_codes, setup.steering_keys)
    stage = _make_stage(config, setup, steering, discoverer)
    env_steps = episodes.spent
    run.log({"phase": "cluster", "env_steps": env_steps} | metrics)
    return {
        "discoverer": dict(discoverer.state_dict()),
        "noise": discoverer.estimator.network.module.std,
        "data": stage.triples(episodes, discoverer.worth_imitating(episodes)).to_dict(),
        "rounds": [],
        "refined": 0,
        "commanded": 0.0,
        "env_steps": env_steps,
        "partition": metrics,
    }


def _cluster(
    run: Run, setup: Setup, episodes: Episodes
) -> tuple[ClusterModeDiscoverer, dict[str, float]]:
    config: DiscoverConfig = run.config
    success = episodes.final.get(keys.SUCCESS, None)
    run.phase("clustering")
    with counted_steps(lambda done: _show_classifier(run, done)):
        return ClusterModeDiscoverer.from_episodes(
            episodes.final.get(keys.HISTORY),
            None if success is None else success.squeeze(-1),
            num_codes=config.num_codes,
            oversegment=config.oversegment,
            noise=setup.task.feature_noise,
            history_length=setup.task.max_decisions + 1,
            hidden=config.hidden,
            seed=config.seed,
            steps=CLASSIFIER_STEPS,
        )


def _show_classifier(run: Run, done: int) -> None:
    if done == 1:  # the clusters are found, q begins to learn them
        run.phase("learning the clusters", CLASSIFIER_STEPS)
    run.progress(done)


def _restore_discoverer(config: DiscoverConfig, state: dict[str, Any]) -> ClusterModeDiscoverer:
    num_codes, feature_dim = state["discoverer"]["centroids"].shape
    discoverer = ClusterModeDiscoverer(
        feature_dim, num_codes, noise=state["noise"], hidden=config.hidden
    )
    discoverer.load_state_dict(state["discoverer"])
    return discoverer.requires_grad_(False)


def _first_fit(run: Run, stage: SelfImitation, state: dict[str, Any]) -> None:
    """Fit the steering policy to the noises of each cluster of the base's episodes."""
    config: DiscoverConfig = run.config
    seed_everything(config.seed, 1)
    run.phase("imitation", config.imitation_steps)
    with counted_steps(run.progress):
        loss = stage.fit_triples(as_rows(state.pop("data")), config.imitation_steps)
    run.log({"phase": "imitate", "env_steps": state["env_steps"], "nll": loss})
    _checkpoint(run, stage, state)


def _refine(
    run: Run, stage: SelfImitation, env: EnvBase, state: dict[str, Any], number: int
) -> None:
    """Roll out the steering policy, keep what reached its code, and fit again."""
    config: DiscoverConfig = run.config
    env.set_seed(seed_everything(config.seed, 2, number))
    name = f"refinement {number + 1} of at most {config.refinements}"
    run.phase(f"{name}, episodes", config.refine_episodes)
    with counted_steps(lambda done: _show_fit(run, name, done)):
        row, episodes = stage.refine(
            env,
            config.refine_episodes,
            std=annealed(config.std, number, config.refinements),
            next_std=annealed(config.std, number + 1, config.refinements),
            steps=config.refine_steps,
            progress=run.progress,
        )
    state["commanded"], state["refined"] = row["commanded"], number + 1
    state["env_steps"] += episodes.spent
    figures = stage.discoverer.estimator.figures(episodes.final)
    figures["clipped_share"] = episodes.clipped
    run.log({"phase": "refine", "env_steps": state["env_steps"]} | row | figures)
    run.progress(config.refine_steps if "nll" in row else config.refine_episodes, None, **row)
    _checkpoint(run, stage, state)


def _show_fit(run: Run, name: str, done: int) -> None:
    if done == 1:  # the episodes are there
        run.phase(f"{name}, fit", run.config.refine_steps)
    run.progress(done)


def _close(
    run: Run,
    setup: Setup,
    env: EnvBase,
    stage: SelfImitation,
    state: dict[str, Any],
) -> Summary:
    """Judge what stage 1 gave, save the adapter, and write the summary."""
    config: DiscoverConfig = run.config
    steering, discoverer = stage.steering, stage.discoverer
    run.phase("judging", config.refine_episodes)
    metrics, episodes = evaluate_policy(
        setup,
        env,
        steering,
        num_codes=discoverer.num_codes,
        episodes=config.refine_episodes,
        seed=config.seed + 10_000,
        estimator=discoverer.estimator,
        progress=run.progress,
    )
    summary = {
        "method": config.method,
        "env_steps": state["env_steps"],
        "refinements": state["refined"],
        "commanded_codes": state["commanded"],
        "partition": state["partition"],
        "sampled": metrics.to_dict()
        | {"clipped_share": episodes.clipped}
        | discoverer.estimator.figures(episodes.final),
    }
    adapter = Adapter(
        steering=steering,
        estimator=discoverer.estimator,
        prior=discoverer.estimator.prior,
        base_reference=setup.reference,
        base_fingerprint=setup.fingerprint,
        extra={"method": config.method, "env_steps": state["env_steps"]},
    )
    save_adapter(Path(config.out) / "adapter", adapter)
    return run.finish(summary)


def _checkpoint(run: Run, stage: SelfImitation, state: dict[str, Any]) -> None:
    state |= {"steering": dict(stage.steering.state_dict())} | stage.state_dict()
    run.checkpoint(state)
