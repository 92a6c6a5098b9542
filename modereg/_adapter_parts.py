"""The parts of an adapter as its JSON has them: all but their weights, and back."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from modereg import keys
from modereg.errors import CheckpointError
from modereg.estimators import (
    NetworkEstimator,
    RewardEstimator,
    estimator_class,
    estimator_kind,
)
from modereg.networks import MLP, InputNoise
from modereg.priors import prior_from_config
from modereg.residual import ChunkResidual
from modereg.steering import SteeringPolicy

__all__ = [
    "build_estimator",
    "build_residual",
    "build_steering",
    "default_mlp",
    "estimator_config",
    "load_weights",
    "residual_config",
    "steering_config",
]

Kind = TypeVar("Kind", bound=ChunkResidual)


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights in the dtype in which they were saved."""
    for dtype in {value.dtype for value in weights.values() if value.is_floating_point()}:
        module.to(dtype)
    module.load_state_dict(weights)


def default_mlp(network: nn.Module, owner: str) -> MLP:
    """Return the network, if its configuration says all about it."""
    layers = network.layers if isinstance(network, MLP) else [network]
    others = [layer for layer in layers if not isinstance(layer, nn.Linear | nn.Mish)]
    if not isinstance(network, MLP) or others:
        found = type(others[0] if isinstance(network, MLP) else network).__name__
        raise CheckpointError(
            f"expected {owner} with the default MLP, got {found}; save its state_dict yourself"
        )
    return network


def _mlp_config(network: MLP) -> dict[str, Any]:
    linear = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
    return {
        "in_features": network.in_features,
        "out_features": linear[-1].out_features,
        "hidden": [layer.out_features for layer in linear[:-1]],
        "octaves": len(network.features.frequencies),
        "plain_features": network.plain_features,
    }


def steering_config(steering: SteeringPolicy, network: MLP) -> dict[str, Any]:
    """Return all but the weights of a steering policy with a default MLP."""
    return {
        "network": _mlp_config(network),
        "observation_keys": [keys.to_json(key) for key in steering.observation_keys],
        "latent_key": keys.to_json(steering.latent_key),
        "action_key": keys.to_json(steering.action_key),
        "latent_dim": steering.head.log_std.in_features,
        "noise_shape": list(steering.noise_shape),
        "mean_bound": steering.head.mean_bound,
        "log_std_range": list(steering.head.log_std_range),
    }


def build_steering(config: dict[str, Any]) -> SteeringPolicy:
    """Return what :func:`steering_config` is of, untrained."""
    network = MLP(**config["network"], zero_init=True)
    latent_dim = config["latent_dim"]
    return SteeringPolicy(
        [keys.from_json(key) for key in config["observation_keys"]],
        network.in_features - latent_dim,
        latent_dim,
        config["noise_shape"],
        network=network,
        latent_key=keys.from_json(config["latent_key"]),
        action_key=keys.from_json(config["action_key"]),
        mean_bound=config["mean_bound"],
        log_std_range=tuple(config["log_std_range"]),
    )


def residual_config(residual: ChunkResidual) -> dict[str, Any]:
    """Return all but the weights of a residual.

    Raises:
        CheckpointError: if it has a network of its own.
    """
    layers = default_mlp(residual.network.head.network, "a residual")
    network = steering_config(residual.network, layers)
    return {"network": network, "bound": residual.bound, "offset": residual.offset}


def build_residual(
    config: dict[str, Any] | None, weights: dict[str, Tensor], kind: type[Kind]
) -> Kind | None:
    """Return a residual of a kind, with its weights, None for none."""
    if config is None:
        return None
    directions = torch.zeros_like(weights["directions"])
    network = build_steering(config["network"])
    residual = kind(network, directions, config["bound"], config["offset"])
    load_weights(residual, weights)
    return residual


def estimator_config(estimator: RewardEstimator) -> dict[str, Any]:
    """Return all but the weights of an estimator.

    Raises:
        CheckpointError: if it is none of modereg's, or has a network of its own.
    """
    noisy = getattr(getattr(estimator, "network", None), "module", None)
    kind = estimator_kind(estimator)
    if kind is None or not isinstance(noisy, InputNoise):
        raise CheckpointError(
            "expected an estimator of modereg's with InputNoise and the default MLP, got "
            f"{type(estimator).__name__} of {type(noisy).__name__}; save its state_dict yourself"
        )
    return {
        "kind": kind,
        "options": cast(NetworkEstimator, estimator).options(),
        "prior": estimator.prior.to_config(),
        "source": estimator.source,
        "network": _mlp_config(default_mlp(noisy.network, "an inference model")),
        "noise": noisy.std,
        "in_keys": [keys.to_json(key) for key in estimator.in_keys],
        "latent_key": keys.to_json(estimator.latent_key),
    }


def build_estimator(
    config: dict[str, Any] | None, prior: dict[str, Any]
) -> NetworkEstimator | None:
    """Return what :func:`estimator_config` is of, untrained, None for none."""
    if config is None:
        return None
    make = estimator_class(config.get("kind", "categorical"))
    source = {"source": "root"} if config.get("source") == "root" else {}
    return make(
        InputNoise(MLP(**config["network"]), config["noise"]),
        prior_from_config(config.get("prior", prior)),
        **config.get("options", {}),
        **source,
        in_keys=[keys.from_json(key) for key in config["in_keys"]],
        latent_key=keys.from_json(config.get("latent_key", keys.LATENT)),
    )
