"""What a base policy can do before anything is trained, and how much its noise decides."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modereg import keys
from modereg.discovery import choose_num_clusters
from modereg.errors import ConfigurationError, StochasticSamplerError
from modereg.files import write_json
from modereg.recipes.config import InspectConfig
from modereg.recipes.evaluate import evaluate_policy
from modereg.recipes.inspect_table import advise
from modereg.recipes.noise_information import HeldNoise, common_scale, index_information
from modereg.recipes.progress import Progress
from modereg.recipes.setup import Setup, set_up
from modereg.rollouts import Episodes
from modereg.seeding import derived_seed, isolated_generators

__all__ = ["inspect_base"]

LABELS = ("entropy", "present_modes", "mode_shares", "undecided")


@torch.no_grad()
def inspect_base(config: InspectConfig) -> dict[str, Any]:
    """Inspect a base policy; see :class:`~modereg.recipes.config.InspectConfig`.

    Torch's global generator is left as it was.

    Returns:
        ``base``, ``task``, ``layout``, ``deterministic``, ``advice``, and unless the policy is
        stochastic in its noise ``sampled`` (return and success under N(0, I)), ``spread`` (its
        behaviours) and ``noise`` (what held noises decide, nats); JSON-able.

    Raises:
        ConfigurationError: if there are fewer than 2 noises, too few episodes for each, or a
            smoothing is not positive.
    """
    _check(config)
    with (
        isolated_generators(config.seed),
        Progress("inspect", shown=config.log.progress) as progress,
    ):
        result = _inspect(config, set_up(config.task, config.base), progress)
    if config.out is not None:
        write_json(Path(config.out) / "inspection.json", result)
    return result


def _inspect(config: InspectConfig, setup: Setup, progress: Progress) -> dict[str, Any]:
    result: dict[str, Any] = {
        "base": config.base,
        "task": setup.task.name,
        "layout": _layout(setup),
        "deterministic": True,
    }
    try:
        setup.steered(1, 1.0).reset()  # which probes the policy
    except StochasticSamplerError as error:
        result |= {"deterministic": False, "advice": f"Not steerable: {error}."}
    else:
        result |= _sampled(config, setup, progress)
        result["noise"] = _held(config, setup, progress)
        result["advice"] = advise(result)
    return result


def _check(config: InspectConfig) -> None:
    if config.noises < 2 or config.held_episodes < 8 * config.noises:
        raise ConfigurationError(
            f"expected at least 2 noises and 8 held_episodes for each, got {config.noises} and "
            f"{config.held_episodes}; hold fewer noises or collect more episodes"
        )
    if not config.smoothing or min(config.smoothing) <= 0:
        raise ConfigurationError(
            f"expected positive levels of smoothing, got {config.smoothing}; .1 .2 .4 serve"
        )


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


def _sampled(config: InspectConfig, setup: Setup, progress: Progress) -> dict[str, Any]:
    """Roll out the base under N(0, I): success, and the spread of its behaviours."""
    progress.phase("episodes of the base", config.episodes)
    figures, episodes = evaluate_policy(
        setup,
        setup.steered(1, 1.0),
        None,
        num_codes=1,
        episodes=config.episodes,
        seed=config.seed,
        progress=progress.update,
    )
    sampled = {name: figures[name] for name in ("mean_return", "success", "success_error")}
    if figures["present_modes"] is None:
        progress.phase("clustering")
        spread = _clusters(episodes, config.seed)
    else:
        spread = {name: figures[name] for name in LABELS} | {"num_modes": setup.task.num_modes}
    sampled |= {"episodes": len(episodes), "clipped_share": episodes.clipped}
    return {"sampled": sampled, "spread": spread}


def _clusters(episodes: Episodes, seed: int) -> dict[str, Any]:
    """Count behaviours without a label: clusters of the episodes, 1 for one bundle of them."""
    features = episodes.final.get(keys.HISTORY)
    if len(features.unique(dim=0)) < 2:
        return {"clusters": 1, "silhouette": None}
    count = choose_num_clusters(features, seed=seed)
    if count.num_clusters == 1:
        return {"clusters": 1, "silhouette": max(count.silhouette)}
    place = count.candidates.index(count.num_clusters)
    return {"clusters": count.num_clusters, "silhouette": count.silhouette[place]}


def _held(config: InspectConfig, setup: Setup, progress: Progress) -> dict[str, Any]:
    """Hold each of M noises for whole episodes, and estimate what their index decides."""
    progress.phase("episodes of held noises", config.held_episodes)
    env = setup.steered(config.noises, 1.0)
    figures, episodes = evaluate_policy(
        setup,
        env,
        HeldNoise(_draw(config, setup)),
        num_codes=config.noises,
        episodes=config.held_episodes,
        seed=config.seed + 1,
        progress=progress.update,
    )
    final = episodes.final
    index, features = final.get(keys.LATENT), final.get(keys.HISTORY)
    history = features.unflatten(-1, (setup.layout.max_decisions + 1, -1))
    scale = common_scale(history)
    progress.phase("information")
    rows = _information(config, index, features, scale)
    return {
        "noises": config.noises,
        "episodes": config.held_episodes,
        "limit": math.log(config.noises),
        "scale": scale,
        "information": rows,
        "success": figures["success"],
        "commandable_modes": figures["commandable_modes"],
    }


def _information(
    config: InspectConfig, index: Tensor, features: Tensor, scale: float
) -> list[dict[str, float]]:
    """Estimate I(index; smoothed feature) at each level of smoothing, nats."""
    rows = []
    for level in config.smoothing:
        found = index_information(
            index,
            features,
            config.noises,
            noise=level * scale,
            steps=config.classifier_steps,
            seed=config.seed,
        )
        error = found.standard_error
        rows.append({"smoothing": level, "nats": found.value, "standard_error": error})
    return rows


def _draw(config: InspectConfig, setup: Setup) -> Tensor:
    """Draw the noises that are held, ``[M, *noise_shape]``."""
    action = setup.env.action_spec
    torch.manual_seed(derived_seed(config.seed, 2))
    noises = setup.base.draw_noise([config.noises], dtype=action.dtype)
    return noises.to(setup.env.device or "cpu")
