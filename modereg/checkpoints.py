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
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from modereg._adapter_parts import (
    build_estimator,
    build_residual,
    build_steering,
    default_mlp,
    estimator_config,
    load_weights,
    residual_config,
    steering_config,
)
from modereg.errors import CheckpointError, ConfigurationError
from modereg.estimators import (
    RewardEstimator,
)
from modereg.files import read_json, write_atomic, write_json
from modereg.layout import Layout
from modereg.policies import DenoisingChain, GenerativePolicy, TunedWeights, freeze
from modereg.priors import Prior, prior_from_config
from modereg.residual import ChunkResidual, StepResidual
from modereg.steering import SteeringPolicy
from modereg.storage import state_fingerprint

__all__ = ["Adapter", "load_adapter", "save_adapter"]

CONFIG, MODEL = "modereg_config.json", "modereg_model.safetensors"
BASIS = "layout.noise_basis"
FORMAT = 2
RESIDUALS: dict[str, Any] = {"residual": ChunkResidual, "step_residual": StepResidual}


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
        step_residual: moves each action when it is played; None where nothing does.
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
    step_residual: StepResidual | None = None
    digest: str = ""

    def chain(self, base: GenerativePolicy) -> DenoisingChain | None:
        """Return what decodes in the place of its base policy, or None where the base does.

        Raises:
            CheckpointError: if the weights are those of another policy.
        """
        if self.tuned is None:
            return None
        return freeze(self.tuned.chain(base, features_key=self.steering.latent_key))

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
    network = default_mlp(steering.head.network, "a steering policy")
    weights = {f"steering.{name}": value for name, value in steering.state_dict().items()}
    estimator = adapter.estimator
    if estimator is not None:
        weights |= {f"estimator.{name}": value for name, value in estimator.state_dict().items()}
    if adapter.layout.noise_basis is not None:
        weights[BASIS] = adapter.layout.noise_basis
    residuals = {"residual": adapter.residual, "step_residual": adapter.step_residual}
    for part, residual in residuals.items():
        if residual is not None:
            weights |= {f"{part}.{name}": value for name, value in residual.state_dict().items()}
    if adapter.tuned is not None:
        weights |= {f"tuned.{name}": value for name, value in adapter.tuned.weights.items()}
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    _check_finite(weights, "the adapter to save")
    config = {
        "format": FORMAT,
        "prior": adapter.prior.to_config(),
        "steering": steering_config(steering, network),
        "estimator": None if estimator is None else estimator_config(estimator),
        "layout": adapter.layout.to_config(),
        "base": {"reference": adapter.base_reference, "fingerprint": adapter.base_fingerprint},
        "extra": adapter.extra,
    }
    for part, residual in residuals.items():
        if residual is not None:
            config[part] = residual_config(residual)
    if adapter.tuned is not None:
        named = {name: getattr(adapter.tuned, name) for name in ("steps", "rank", "codes")}
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
        steering = build_steering(config["steering"])
        load_weights(steering, _part(weights, "steering."))
        estimator = build_estimator(config["estimator"], config["prior"])
        if estimator is not None:
            load_weights(estimator, _part(weights, "estimator."))
        residuals = {
            name: build_residual(config.get(name), _part(weights, f"{name}."), kind)
            for name, kind in RESIDUALS.items()
        }
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
        tuned=tuned,
        **residuals,
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
    known |= {*RESIDUALS, "tuned"} & set(config)
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


def _build_tuned(config: dict[str, Any] | None, weights: dict[str, Tensor]) -> TunedWeights | None:
    if config is None:
        return None
    return TunedWeights(weights, config["steps"], config.get("rank"), config.get("codes"))
