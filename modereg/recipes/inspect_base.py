"""What a base policy can do before anything is trained, and which behaviours its noise reaches."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path
from typing import Any

from modereg import keys
from modereg.discovery import ClusterModeDiscoverer, GuidedDiscovery, decision_entries
from modereg.discovery.best_of import BestOf
from modereg.discovery.cluster import ONE_BEHAVIOUR
from modereg.discovery.guided import EPISODE, OUTCOME
from modereg.discovery.reach import predict_reach
from modereg.discovery.relevance import course
from modereg.errors import StochasticSamplerError
from modereg.files import write_json
from modereg.recipes.config import InspectConfig
from modereg.recipes.evaluate import judge, steps_per_second
from modereg.recipes.events import Planned
from modereg.recipes.features import choose_features, keep_features, looking_at
from modereg.recipes.inspect_table import advise
from modereg.recipes.progress import Progress
from modereg.recipes.setup import Setup, set_up
from modereg.rollouts import Episodes, iterate_episodes
from modereg.seeding import derived_seed, isolated_generators
from modereg.wrapping import SteeredEnv, make_steering

__all__ = ["inspect_base"]

LABELS = ("entropy", "present_modes", "mode_shares", "undecided")


def inspect_base(config: InspectConfig) -> dict[str, Any]:
    """Inspect a base policy; see :class:`~modereg.recipes.config.InspectConfig`.

    Torch's global generator is left as it was.

    Returns:
        ``base``, ``task``, ``layout``, ``deterministic``, ``advice``, and unless the policy is
        stochastic in its noise ``sampled`` (return and success under N(0, I)), ``spread`` (its
        behaviours), ``reach`` (which of them noise can command; None where there is one alone) and
        ``env_steps``; JSON-able.

    Raises:
        ConfigurationError: if there are too few episodes to cluster.
    """
    began = time.perf_counter()
    with (
        isolated_generators(config.seed),
        Progress("inspect", shown=config.log.progress) as progress,
    ):
        result = _inspect(config, set_up(config.task, config.base), progress)
        progress.close()
        progress.say(f"took {time.perf_counter() - began:.0f} s")
    if config.out is not None:
        write_json(Path(config.out) / "inspection.json", result)
    return result


def _inspect(config: InspectConfig, setup: Setup, progress: Progress) -> dict[str, Any]:
    env = setup.steered(1, 1.0)
    result: dict[str, Any] = {
        "base": config.base,
        "task": setup.task.name,
        "layout": _layout(setup),
        "deterministic": True,
    }
    try:
        env.reset()  # which probes the policy
    except StochasticSamplerError as error:
        return result | {"deterministic": False, "advice": f"Not steerable: {error}."}
    progress.say(str(Planned(config.episodes * setup.layout.max_steps, steps_per_second(env))))
    env.set_seed(derived_seed(config.seed, 0))
    progress.phase("episodes of the base", config.episodes)
    parts, rolled = [], 0
    read, last = decision_entries(env), setup.final_keys(env)
    for part in iterate_episodes(env, config.episodes, keep=read, final=last):
        parts.append(part)
        rolled += len(part)
        progress.update(rolled)
    episodes = Episodes.cat(parts)
    dims = choose_features(setup, config.task, episodes)
    episodes, setup = keep_features(setup, episodes, dims), looking_at(setup, dims)
    result["layout"] |= {"features": _features(setup, episodes)}
    result |= _sampled(setup, episodes)
    progress.phase("clustering")
    discoverer, figures = _clusters(config, setup, episodes)
    result["spread"] |= figures
    result["reach"] = None
    if discoverer is not None:
        result["reach"] = _reach(config, setup, env, discoverer, episodes, progress)
    result["env_steps"] = episodes.spent
    return result | {"advice": advise(result)}


def _layout(setup: Setup) -> dict[str, Any]:
    """Return the chunk layout and the shapes of what the policy reads, without the batch."""
    policy, env = setup.base, setup.env
    batch = len(env.batch_size)
    horizon, action_dims = policy.chunk_shape
    return {
        "horizon": horizon,
        "executed": setup.layout.execute,
        "offset": setup.layout.offset,
        "action_dims": action_dims,
        "noise_shape": list(policy.noise_shape),
        "observations": {
            key if isinstance(key, str) else ".".join(key): list(
                env.observation_spec[key].shape[batch:]
            )
            for key in policy.observation_keys
        },
        "observation_steps": policy.observation_steps,
        "max_decisions": setup.layout.max_decisions,
    }


def _features(setup: Setup, episodes: Episodes) -> dict[str, Any]:
    """Return the entries that tell behaviours apart, and which of their dimensions do."""
    width, dims = course(episodes, setup.layout).shape[-1], setup.layout.feature_dims
    names = [key if isinstance(key, str) else ".".join(key) for key in setup.layout.features]
    return {"keys": names, "dims": list(range(width)) if dims is None else list(dims)}


def _sampled(setup: Setup, episodes: Episodes) -> dict[str, Any]:
    """Return success under N(0, I), and the spread of the modes where there is a label."""
    figures = judge(setup, episodes, 1).to_dict()
    sampled = {name: figures[name] for name in ("mean_return", "success", "success_error")}
    sampled |= {"episodes": len(episodes), "clipped_share": episodes.clipped}
    spread: dict[str, Any] = {}
    if figures["present_modes"] is not None:
        spread = {name: figures[name] for name in LABELS} | {"num_modes": setup.task.num_modes}
    return {"sampled": sampled, "spread": spread}


def _clusters(
    config: InspectConfig, setup: Setup, episodes: Episodes
) -> tuple[ClusterModeDiscoverer | None, dict[str, Any]]:
    """Tell behaviours apart without a label; None where all episodes are one bundle."""
    features = episodes.final.get(keys.HISTORY)
    if len(features.unique(dim=0)) < 2:
        return None, {"clusters": 1, "silhouette": None}
    success = episodes.final.get(keys.SUCCESS, None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", re.escape(ONE_BEHAVIOUR))  # the advice says it
        discoverer, figures = ClusterModeDiscoverer.from_episodes(
            features,
            None if success is None else success.squeeze(-1),
            noise=setup.task.feature_noise,
            history_length=setup.layout.max_decisions + 1,
            seed=config.seed,
        )
    found = {"clusters": int(figures["suggested_modes"]), "silhouette": figures["silhouette"]}
    return discoverer if found["clusters"] > 1 else None, found


def _reach(
    config: InspectConfig,
    setup: Setup,
    env: SteeredEnv,
    discoverer: ClusterModeDiscoverer,
    episodes: Episodes,
    progress: Progress,
) -> dict[str, Any]:
    """Fit the outcome model, and predict which behaviours the best of M noises reaches."""
    progress.phase("outcome model")
    steering = make_steering(env, setup.base, discoverer.prior)
    guided = GuidedDiscovery(env, steering, discoverer)
    guided.observe_base(episodes)
    rows, figures = guided.fit_outcomes()
    progress.phase("reach")
    best_of = BestOf(setup.base, guided.model, setup.layout, num_draws=config.draws)
    found = predict_reach(best_of, rows, rows[OUTCOME], rows[EPISODE])
    columns = (found.share.tolist(), found.reach.tolist(), found.error.tolist())
    codes = [
        {"code": code, "share": share, "reach": reach, "error": error}
        for code, (share, reach, error) in enumerate(zip(*columns, strict=True))
    ]
    return figures | {"draws": config.draws, "decodes": found.decodes, "codes": codes}
