"""Stage 1: find the modes of a frozen base policy, and a steering policy that commands them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs import EnvBase

from modereg import keys
from modereg.checkpoints import Adapter, save_adapter
from modereg.discovery import ClusterModeDiscoverer, NoiseImitation
from modereg.networks import MLP
from modereg.recipes.build import Setup, set_up
from modereg.recipes.config import DiscoverConfig
from modereg.recipes.evaluate import evaluate_policy, final_keys, held_out_figures
from modereg.recipes.ppo import fit_features
from modereg.recipes.runs import Run, seed_everything
from modereg.recipes.variational import discover_variational
from modereg.rollouts import Episodes, collect_episodes
from modereg.steering import SteeringPolicy
from modereg.wrapping import make_steering

__all__ = ["discover"]

REACHED = 0.8
"""Share of its episodes in which a code must reach itself, with success, to count as commanded."""

KEPT_ROUNDS = 3
"""Refinements whose episodes are fitted together."""


def discover(config: DiscoverConfig) -> dict[str, Any]:
    """Run stage 1; see :class:`~modereg.recipes.config.DiscoverConfig`.

    Returns:
        The run's summary; the adapter lies in ``out/adapter``.
    """
    run = Run(config)
    if run.finished:
        return run.summary
    setup = set_up(config.task, config.base)
    if config.method == "variational":
        return discover_variational(run, setup)
    return _discover_clusters(run, setup)


def _discover_clusters(run: Run, setup: Setup) -> dict[str, Any]:
    config: DiscoverConfig = run.config
    state = run.load() or _partition(run, setup)
    discoverer = _restore_discoverer(config, state)
    env = setup.steered(discoverer.prior, 1.0)
    steering = make_steering(
        env, setup.base, discoverer.prior, setup.steering_keys, hidden=config.hidden
    )
    steering.load_state_dict(state["steering"]) if "steering" in state else _first_fit(
        run, steering, state
    )
    for number in range(state["refined"], config.refinements):
        if state["commanded"] >= config.target:
            break
        _refine(run, setup, env, steering, discoverer, state, number)
    return _close(run, setup, env, steering, discoverer, state)


def _partition(run: Run, setup: Setup) -> dict[str, Any]:
    """Roll out the base, cluster its episodes, and return the state that later steps share."""
    config: DiscoverConfig = run.config
    env = setup.steered(1, 1.0)
    env.set_seed(seed_everything(config.seed, 0))
    entries = [*setup.steering_keys, keys.ACTION]
    episodes = collect_episodes(
        env,
        config.episodes,
        max_decisions=setup.task.max_decisions,
        keep=entries,
        final=final_keys(setup),
        progress=lambda done: run.progress(done, config.episodes),
    )
    run.close()
    features, success = episodes.final.get(keys.HISTORY), episodes.final.get(keys.SUCCESS, None)
    solved = None if success is None else success.squeeze(-1)
    discoverer, metrics = ClusterModeDiscoverer.from_episodes(
        features,
        solved,
        num_codes=config.num_codes,
        oversegment=config.oversegment,
        noise=setup.task.feature_noise,
        history_length=setup.task.max_decisions + 1,
        hidden=config.hidden,
        seed=config.seed,
    )
    every = torch.ones(len(episodes), dtype=torch.bool)
    chosen = solved if metrics["only_successes"] and solved is not None else every
    env_steps = int(episodes.env_steps.sum())
    run.log({"phase": "cluster", "env_steps": env_steps} | metrics)
    return {
        "discoverer": dict(discoverer.state_dict()),
        "noise": discoverer.estimator.network.module.std,
        "data": _triples(episodes, chosen, discoverer, setup.steering_keys),
        "rounds": [],
        "refined": 0,
        "commanded": 0.0,
        "env_steps": env_steps,
        "partition": metrics,
    }


def _restore_discoverer(config: DiscoverConfig, state: dict[str, Any]) -> ClusterModeDiscoverer:
    num_codes, feature_dim = state["discoverer"]["centroids"].shape
    discoverer = ClusterModeDiscoverer(
        feature_dim, num_codes, noise=state["noise"], hidden=config.hidden
    )
    discoverer.load_state_dict(state["discoverer"])
    return discoverer.requires_grad_(False)


def _triples(
    episodes: Episodes, chosen: Tensor, discoverer: ClusterModeDiscoverer, observed: list
) -> dict[str, Any]:
    """Return observation, noise and the code that q gives each of the chosen episodes, flat."""
    codes = discoverer.log_prob(episodes.final).argmax(-1)
    decisions = episodes.decisions.select(*observed, keys.ACTION)
    decisions.set(keys.LATENT, codes[:, None].expand(episodes.valid.shape))
    return decisions[episodes.valid & chosen[:, None]].to_dict()


def _first_fit(run: Run, steering: SteeringPolicy, state: dict[str, Any]) -> None:
    """Fit the steering policy to the noises of each cluster of the base's episodes."""
    config: DiscoverConfig = run.config
    seed_everything(config.seed, 1)
    data = _tensordict(state["data"])
    observed = torch.cat([data.get(key) for key in steering.observation_keys], -1)
    fit_features(observed, cast(MLP, steering.head.network))
    num_codes = len(state["discoverer"]["centroids"])
    loss = NoiseImitation(steering).fit(data, num_codes, config.imitation_steps)
    run.log({"phase": "imitate", "env_steps": state["env_steps"], "nll": loss})
    _checkpoint(run, steering, state)


def _refine(
    run: Run,
    setup: Setup,
    env: EnvBase,
    steering: SteeringPolicy,
    discoverer: ClusterModeDiscoverer,
    state: dict[str, Any],
    number: int,
) -> None:
    """Roll out the steering policy, keep what reached its code, and fit again."""
    config: DiscoverConfig = run.config
    env.set_seed(seed_everything(config.seed, 2, number))
    steering.set_std(_anneal(config, number))
    episodes = collect_episodes(
        env,
        config.refine_episodes,
        max_decisions=setup.task.max_decisions,
        policy=steering,
        keep=[*setup.steering_keys, keys.ACTION],
        final=final_keys(setup),
    )
    hits = _hits(episodes, discoverer)
    state["commanded"] = _commanded(episodes, hits, discoverer.num_codes)
    state["env_steps"] += int(episodes.env_steps.sum())
    row: dict[str, float] = {"hits": float(hits.float().mean()), "commanded": state["commanded"]}
    if bool(hits.any()):
        reached = _triples(episodes, hits, discoverer, setup.steering_keys)
        state["rounds"] = [*state["rounds"], reached][-KEPT_ROUNDS:]
    if state["rounds"]:
        data = torch.cat([_tensordict(part) for part in state["rounds"]])
        imitation = NoiseImitation(steering)
        row["nll"] = imitation.fit(data, discoverer.num_codes, config.refine_steps)
    steering.set_std(_anneal(config, number + 1))
    state["refined"] = number + 1
    figures = held_out_figures(discoverer.estimator, episodes.final)
    figures["clipped_share"] = episodes.clipped
    run.log({"phase": "refine", "env_steps": state["env_steps"]} | row | figures)
    run.progress(number + 1, config.refinements, **row)
    _checkpoint(run, steering, state)


def _anneal(config: DiscoverConfig, number: int) -> float:
    """Return the standard deviation of a refinement, geometric between the two given."""
    first, last = config.std
    return first * (last / first) ** min(number / max(config.refinements - 1, 1), 1.0)


def _hits(episodes: Episodes, discoverer: ClusterModeDiscoverer) -> Tensor:
    """Return which episodes succeeded and reached their code, as q reads it, ``[N]`` bool."""
    codes, success = episodes.final.get(keys.LATENT), episodes.final.get(keys.SUCCESS, None)
    reached = discoverer.log_prob(episodes.final).argmax(-1) == codes
    return reached if success is None else reached & success.squeeze(-1)


def _commanded(episodes: Episodes, hits: Tensor, num_codes: int) -> float:
    """Return the share of the codes that reach themselves in enough of their episodes."""
    codes = episodes.final.get(keys.LATENT)
    drawn = torch.bincount(codes, minlength=num_codes)
    reached = torch.bincount(codes[hits], minlength=num_codes) / drawn.clamp_min(1)
    return float((reached >= REACHED).float().mean())


def _close(
    run: Run,
    setup: Setup,
    env: EnvBase,
    steering: SteeringPolicy,
    discoverer: ClusterModeDiscoverer,
    state: dict[str, Any],
) -> dict[str, Any]:
    """Judge what stage 1 gave, save the adapter, and write the summary."""
    config: DiscoverConfig = run.config
    metrics, episodes = evaluate_policy(
        setup,
        env,
        steering,
        num_codes=discoverer.num_codes,
        episodes=config.refine_episodes,
        seed=config.seed + 10_000,
        estimator=discoverer.estimator,
    )
    summary = {
        "method": config.method,
        "env_steps": state["env_steps"],
        "refinements": state["refined"],
        "commanded_codes": state["commanded"],
        "partition": state["partition"],
        "sampled": metrics.to_dict()
        | {"clipped_share": episodes.clipped}
        | held_out_figures(discoverer.estimator, episodes.final),
    }
    adapter = Adapter(
        steering=steering,
        estimator=discoverer.estimator,
        prior=discoverer.prior,
        base_reference=setup.reference,
        base_fingerprint=setup.fingerprint,
        extra={"method": config.method, "env_steps": state["env_steps"]},
    )
    save_adapter(Path(config.out) / "adapter", adapter)
    return run.finish(summary)


def _checkpoint(run: Run, steering: SteeringPolicy, state: dict[str, Any]) -> None:
    state["steering"] = dict(steering.state_dict())
    run.checkpoint(state)


def _tensordict(data: dict[str, Any]) -> TensorDict:
    length = len(data[keys.ACTION])
    return TensorDict(data, batch_size=[length])
