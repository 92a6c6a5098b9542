"""Adapters: what modereg adds to a base policy, saved without the base.

An adapter folder holds ``modereg_config.json`` (format, sizes, keys, prior, layout, the base's
reference and fingerprint, one digest over all) and ``modereg_model.safetensors`` (steering policy,
inference model, noise basis, residual, and weights that were trained in the place of the base's).
The base is referenced, never copied; loading beside another base, or on an environment of another
layout, is refused.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from modereg import keys
from modereg.errors import CheckpointError, ConfigurationError
from modereg.estimators import (
    NetworkEstimator,
    RewardEstimator,
    estimator_class,
    estimator_kind,
)
from modereg.files import read_json, write_atomic, write_json
from modereg.layout import Layout
from modereg.networks import MLP, InputNoise
from modereg.policies import DenoisingChain, GenerativePolicy, TunedWeights, freeze
from modereg.priors import Prior, prior_from_config
from modereg.residual import ChunkResidual
from modereg.steering import SteeringPolicy
from modereg.storage import state_fingerprint

__all__ = ["Adapter", "load_adapter", "save_adapter"]

CONFIG, MODEL = "modereg_config.json", "modereg_model.safetensors"
BASIS = "layout.noise_basis"
FORMAT = 2


@dataclass
class Adapter:
    """A steering policy with its inference model, and what they were made for.

    Attributes:
        steering: psi(w | s, z), with the default MLP.
        estimator: q(z | s) with its prior, None after plain fine-tuning.
        prior: p(z); once loaded the estimator's own, so that one that learns stays one.
        layout: of the steered environment that it was made on.
        base_reference: how the user named the base policy.
        base_fingerprint: :meth:`~modereg.policies.GenerativePolicy.fingerprint` of the base.
        extra: whatever else belongs to it, JSON-able.
        residual: moves the base's chunks, behind the same codes; None where nothing does.
        tuned: weights that were trained in the place of the base's; None where none were.
        digest: of the files that it was loaded from.
    """

    steering: SteeringPolicy
    estimator: RewardEstimator | None
    prior: Prior
    layout: Layout
    base_reference: str
    base_fingerprint: str
    extra: dict[str, Any] = field(default_factory=dict)
    residual: ChunkResidual | None = None
    tuned: TunedWeights | None = None
    digest: str = ""

    def chain(self, base: GenerativePolicy) -> DenoisingChain | None:
        """Return what decodes in the place of its base policy, or None where the base does.

        Raises:
            CheckpointError: if the weights are those of another policy.
        """
        if self.tuned is None:
            return None
        chain = DenoisingChain(base, self.tuned.steps, rank=self.tuned.rank)
        chain.load_weights(self.tuned.weights)
        return freeze(chain)

    def check_base(self, base: GenerativePolicy, name: str = "the adapter") -> None:
        """Check that it was made on a base policy.

        Args:
            base: the policy that it will steer.
            name: what it is called, for the error.

        Raises:
            CheckpointError: if the base is another one.
        """
        if (found := base.fingerprint()) != self.base_fingerprint:
            raise CheckpointError(
                f"{name} steers the base policy {self.base_reference!r} with fingerprint "
                f"{self.base_fingerprint[:12]}, got one with {found[:12]}; load that base, or run "
                "discovery again on this one"
            )

    def check_layout(self, layout: Layout, folder: Path) -> None:
        """Check that it was made for a layout.

        Args:
            layout: of the environment in which it will steer (``env.layout``).
            folder: where it is from, for the error.

        Raises:
            ConfigurationError: if the layout is another one; the sentence says in what.
        """
        if others := self.layout.differences(layout):
            raise ConfigurationError(
                f"the adapter in {folder} was made on another layout than that of this "
                f"environment: {'; '.join(others)}; use the adapter's layout, or discover on this "
                "one"
            )


def save_adapter(folder: Path, adapter: Adapter) -> None:
    """Save an adapter; the weights are written first, the configuration closes the save.

    Raises:
        CheckpointError: if the steering policy, or q, has a network of its own instead of the MLP,
            or a weight is not finite.
    """
    steering = adapter.steering
    network = _default_mlp(steering.head.network, "a steering policy")
    weights = {f"steering.{name}": value for name, value in steering.state_dict().items()}
    estimator = adapter.estimator
    if estimator is not None:
        weights |= {f"estimator.{name}": value for name, value in estimator.state_dict().items()}
    if adapter.layout.noise_basis is not None:
        weights[BASIS] = adapter.layout.noise_basis
    residual = adapter.residual
    if residual is not None:
        weights |= {f"residual.{name}": value for name, value in residual.state_dict().items()}
    if adapter.tuned is not None:
        weights |= {f"tuned.{name}": value for name, value in adapter.tuned.weights.items()}
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    _check_finite(weights, "the adapter to save")
    config = {
        "format": FORMAT,
        "prior": adapter.prior.to_config(),
        "steering": _steering_config(steering, network),
        "estimator": None if estimator is None else _estimator_config(estimator),
        "layout": adapter.layout.to_config(),
        "base": {"reference": adapter.base_reference, "fingerprint": adapter.base_fingerprint},
        "extra": adapter.extra,
    }
    if residual is not None:
        config["residual"] = _residual_config(residual)
    if adapter.tuned is not None:
        named = {"steps": adapter.tuned.steps, "rank": adapter.tuned.rank}
        config["tuned"] = {name: value for name, value in named.items() if value is not None}
    write_atomic(Path(folder) / MODEL, save(weights))
    write_json(Path(folder) / CONFIG, config | {"digest": _digest(config, weights)})


def load_adapter(
    folder: Path, base: GenerativePolicy | None = None, layout: Layout | None = None
) -> Adapter:
    """Load an adapter, and check that it was made for this base and this layout.

    Args:
        folder: what :func:`save_adapter` wrote.
        base: the base policy it will steer; None leaves the check out.
        layout: of the environment in which it will steer (``env.layout``); None leaves the check
            out.

    Raises:
        CheckpointError: if a file is missing, damaged or foreign, or the base is another one.
        ConfigurationError: if the layout is another one; the sentence says in what.
    """
    config, weights = _read(Path(folder))
    named = config["base"]
    if not isinstance(named, dict) or set(named) != {"reference", "fingerprint"}:
        raise CheckpointError(f"expected the base's reference in {folder}; save the adapter again")
    try:
        steering = _build_steering(config["steering"])
        _load(steering, _part(weights, "steering."))
        estimator = _build_estimator(config["estimator"], config["prior"])
        if estimator is not None:
            _load(estimator, _part(weights, "estimator."))
        residual = _build_residual(config.get("residual"), _part(weights, "residual."))
        tuned = _build_tuned(config.get("tuned"), _part(weights, "tuned."))
        prior = prior_from_config(config["prior"])
        made_on = Layout.from_config(config["layout"], weights.get(BASIS))
        if estimator is not None and estimator.prior.to_config() == prior.to_config():
            prior = estimator.prior
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the files in {folder} do not fit each other ({error}); save the adapter again"
        ) from error
    adapter = Adapter(
        steering=steering,
        estimator=estimator,
        prior=prior,
        layout=made_on,
        base_reference=config["base"]["reference"],
        base_fingerprint=config["base"]["fingerprint"],
        extra=config["extra"],
        residual=residual,
        tuned=tuned,
        digest=config["digest"],
    )
    if base is not None:
        adapter.check_base(base, f"the adapter in {folder}")
    if layout is not None:
        adapter.check_layout(layout, folder)
    return adapter


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = read_json(folder / CONFIG)
    known = {"format", "prior", "steering", "estimator", "layout", "base", "extra", "digest"}
    if not isinstance(config, dict) or "format" not in config:
        raise CheckpointError(f"expected an adapter's configuration in {folder / CONFIG}")
    if config["format"] != FORMAT:
        raise CheckpointError(
            f"expected an adapter of format {FORMAT} in {folder}, got {config['format']!r}; load "
            "it with the version of modereg that saved it, or discover again"
        )
    if not known <= set(config):
        raise CheckpointError(
            f"expected {sorted(known)} in {folder / CONFIG}, got {sorted(config)}; save it again"
        )
    known |= {"residual", "tuned"} & set(config)
    if set(config) - known:
        warnings.warn(
            f"{folder / CONFIG} has entries of a later version, which are left out: "
            f"{sorted(set(config) - known)}",
            stacklevel=3,
        )
    try:
        weights = load((folder / MODEL).read_bytes())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"expected intact weights in {folder / MODEL}, got {error}; save the adapter again"
        ) from None
    if _digest({name: config[name] for name in known - {"digest"}}, weights) != config["digest"]:
        raise CheckpointError(
            f"the files {CONFIG} and {MODEL} in {folder} are not as they were saved; save the "
            "adapter again"
        )
    _check_finite(weights, f"the adapter in {folder}")
    return config, weights


def _check_finite(weights: dict[str, Tensor], whose: str) -> None:
    bad = [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise CheckpointError(f"expected finite weights, got NaN or infinity in {bad} of {whose}")


def _digest(config: dict[str, Any], weights: dict[str, Tensor]) -> str:
    """Return one digest of the options and the weights: whatever decides how it acts."""
    named = {name.replace(".", "/"): value for name, value in weights.items()}
    text = json.dumps(config, sort_keys=True)
    return hashlib.sha256((text + state_fingerprint(named)).encode()).hexdigest()


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = len(prefix)
    return {name[start:]: value for name, value in weights.items() if name.startswith(prefix)}


def _load(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights in the dtype in which they were saved."""
    for dtype in {value.dtype for value in weights.values() if value.is_floating_point()}:
        module.to(dtype)
    module.load_state_dict(weights)


def _default_mlp(network: nn.Module, owner: str) -> MLP:
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


def _steering_config(steering: SteeringPolicy, network: MLP) -> dict[str, Any]:
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


def _build_steering(config: dict[str, Any]) -> SteeringPolicy:
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


def _residual_config(residual: ChunkResidual) -> dict[str, Any]:
    layers = _default_mlp(residual.network.head.network, "a residual")
    network = _steering_config(residual.network, layers)
    return {"network": network, "bound": residual.bound, "offset": residual.offset}


def _build_residual(
    config: dict[str, Any] | None, weights: dict[str, Tensor]
) -> ChunkResidual | None:
    if config is None:
        return None
    directions = torch.zeros_like(weights["directions"])
    network = _build_steering(config["network"])
    residual = ChunkResidual(network, directions, config["bound"], config["offset"])
    _load(residual, weights)
    return residual


def _build_tuned(config: dict[str, Any] | None, weights: dict[str, Tensor]) -> TunedWeights | None:
    return None if config is None else TunedWeights(weights, config["steps"], config.get("rank"))


def _estimator_config(estimator: RewardEstimator) -> dict[str, Any]:
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
        "network": _mlp_config(_default_mlp(noisy.network, "an inference model")),
        "noise": noisy.std,
        "in_keys": [keys.to_json(key) for key in estimator.in_keys],
        "latent_key": keys.to_json(estimator.latent_key),
    }


def _build_estimator(
    config: dict[str, Any] | None, prior: dict[str, Any]
) -> NetworkEstimator | None:
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
