"""Discovery by RL, as in the paper: a classifier of codes learns beside the policy."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.distributions import Distribution

from modereg import functional, keys
from modereg.discovery.base import ModeDiscoverer
from modereg.errors import ConfigurationError, NonFiniteError
from modereg.estimators import CategoricalMI, check_support
from modereg.networks import MLP, InputNoise
from modereg.priors import Prior, as_prior
from modereg.reading import require

__all__ = ["VariationalModeDiscoverer"]

HELD_OUT = 10
"""One episode in this many is kept from training, for the metrics."""

RELATIVE_NOISE = 0.2
"""Default noise on q's input, in units of the features' common scale."""


class VariationalModeDiscoverer(ModeDiscoverer):
    r"""The paper's discoverer: q learns online which code made the trajectory.

    q is trained by cross entropy on what was observed last, while a policy is trained on
    :math:`\log q(z \mid s) - \log p(z)` (BMD, arXiv 2605.11387, Eq. 1 and 2). Noise on q's input in
    training, none when it is read, keeps it from telling codes apart by trifles.

    **Feature scaling.** :meth:`fit` takes from rollouts of the frozen base the mean of every
    feature and *one* standard deviation, the root of the mean variance over features. A common
    scale keeps the geometry: dividing each feature by its own deviation would inflate features
    that hardly vary. With ``noise=None`` it also sets the noise, to 0.2 of that scale.

    **Held-out data.** The metrics are of data that q is not trained on: every tenth environment of
    a ``[B, T]`` rollout with B of at least 10; otherwise every tenth episode by ``("next",
    "done")``; every tenth row, where there is no ``done`` or but one episode. In a flat batch that
    was shuffled before, neighbouring rows are no episodes and the metrics are optimistic.

    **Randomness** comes from torch's global generator. A ``state_dict`` holds network, scale,
    noise, optimiser and buffer as plain tensors, numbers, lists and dicts, so that
    ``torch.load(weights_only=True)`` reads it and training goes on bit for bit.

    Args:
        network: q, as :class:`~modereg.estimators.CategoricalMI` takes it, or the total length of
            the features for an :class:`~modereg.networks.MLP` with noise on its input.
        prior: p(z), discrete.
        in_keys: entries of the features, of ``next``; the history by default. A TensorDictModule
            brings its own.
        latent_key: entry of the code, of the root.
        logits_key: entry of q's logits.
        hidden: widths of the default MLP.
        octaves: octaves of sine features of the default MLP.
        noise: standard deviation of the noise on the default MLP's input, in feature units; None:
            see above. A network of your own wraps itself in
            :class:`~modereg.networks.InputNoise`.
        window: how many of the last :meth:`observe` calls are kept.
        steps: optimiser steps of one :meth:`update`.
        batch_size: rows of one step, drawn with replacement.
        lr: learning rate of Adam.

    Raises:
        ConfigurationError: if an option is out of range, or q and the prior differ in K.
    """

    def __init__(
        self,
        network: nn.Module | int,
        prior: int | Distribution | Prior,
        *,
        in_keys: Sequence[NestedKey] | None = None,
        latent_key: NestedKey = keys.LATENT,
        logits_key: NestedKey = keys.LOGITS,
        hidden: Sequence[int] = (128, 128),
        octaves: int = 0,
        noise: float | None = None,
        window: int = 4,
        steps: int = 20,
        batch_size: int = 512,
        lr: float = 1e-3,
    ) -> None:
        if min(window, steps, batch_size) < 1 or lr <= 0:
            raise ConfigurationError(
                "expected window, steps and batch_size of at least 1 and a positive lr, got "
                f"{window}, {steps}, {batch_size} and {lr}"
            )
        prior = as_prior(prior)
        if isinstance(network, int):
            mlp = MLP(network, prior.num_codes or 1, hidden, octaves=octaves)
            network = InputNoise(mlp, RELATIVE_NOISE if noise is None else noise)
        elif noise is not None:
            raise ConfigurationError(
                f"expected no noise beside a network of your own, got {noise}; wrap the network in "
                "InputNoise"
            )
        super().__init__(
            CategoricalMI(
                network, prior, in_keys=in_keys, latent_key=latent_key, logits_key=logits_key
            )
        )
        self.noise, self.window = noise, window
        self.steps, self.batch_size = steps, batch_size
        self.optimizer = torch.optim.Adam(self.estimator.parameters(), lr, fused=True)
        self._window: list[dict[str, Any]] = []

    @torch.no_grad()
    def fit(self, rollout: TensorDictBase) -> None:
        """Set the common scale of the features, and the default noise, from base rollouts.

        Args:
            rollout: ``[B, T]`` or ``[N]`` transitions, read as by :meth:`observe`; the code is not
                needed.

        Raises:
            ConfigurationError: if q is a network of the user's, which scales its input itself.
            KeyMismatchError: if a feature is missing.
            NonFiniteError: if a feature is not finite.
        """
        noisy = getattr(self.estimator.network, "module", None)
        if not isinstance(noisy, InputNoise) or not isinstance(noisy.network, MLP):
            raise ConfigurationError(
                "expected an MLP in InputNoise to scale the features of, got "
                f"{type(noisy).__name__}; scale the input in your own network instead of fit()"
            )
        rows = _valid(rollout).nonzero().squeeze(-1)
        features = torch.cat(self._features(rollout, rows), -1)
        scale = features.var(0).mean().sqrt().clamp_min(1e-6)
        noisy.network.features.shift.copy_(features.mean(0))
        noisy.network.features.scale.copy_(scale)
        if self.noise is None:
            noisy.std = RELATIVE_NOISE * float(scale)

    @torch.no_grad()
    def observe(self, rollout: TensorDictBase) -> None:
        """Keep the rows of a rollout, and forget those of the oldest beyond the window.

        Args:
            rollout: ``[B, T]`` or ``[N]`` transitions: the code in the root, the features in
                ``next``. Rows with a false ``("collector", "mask")`` are dropped.

        Raises:
            KeyMismatchError: if an entry is missing.
            ConfigurationError: if a code lies outside the prior's support.
            NonFiniteError: if a feature is not finite.
        """
        rows = _valid(rollout).nonzero().squeeze(-1)
        latent = require(rollout, self.latent_key, "the discoverer").reshape(-1)[rows]
        check_support(self.prior, latent, self.latent_key)
        entry = {
            "features": self._features(rollout, rows),
            "latent": latent,
            "held_out": _held_out(rollout)[rows],
        }
        self._window = [*self._window, entry][-self.window :]

    def reset_buffer(self) -> None:
        """Forget what was observed; network and optimiser stay."""
        self._window = []

    def update(self) -> dict[str, float]:
        """Take ``steps`` optimiser steps on the buffer.

        Returns:
            ``loss``: mean cross entropy of the steps, with noise (nats). On held-out data without
            noise: ``held_out_loss`` (nats), ``held_out_accuracy``, ``bound`` (nats, unclamped),
            ``bound_share`` of H(p), which is 0 for one code, and ``aliased_codes``, the codes that
            are taken for another (:func:`~modereg.functional.aliased_codes`).

        Raises:
            ConfigurationError: if nothing was observed to train on.
        """
        data = self._data()
        held = torch.cat([entry["held_out"] for entry in self._window])
        if not bool(held.any()) or bool(held.all()):
            raise ConfigurationError(
                f"expected data to train on and to hold out, got {len(held)} rows of which "
                f"{int(held.sum())} are held out; observe longer rollouts"
            )
        train = data[~held]
        losses = torch.stack([self._step(train) for _ in range(self.steps)])
        return {"loss": float(losses.mean()), **self.evaluate(data[held])}

    @torch.no_grad()
    def evaluate(self, tensordict: TensorDictBase) -> dict[str, float]:
        """Return the metrics of :meth:`update` but ``loss``, on given data.

        Args:
            tensordict: ``[N]`` features and codes, both in the root.
        """
        latent = tensordict.get(self.latent_key)
        log_prob = self.log_prob(tensordict)
        bound = float(functional.variational_bound(log_prob, latent, self.estimator.log_prior))
        entropy = self.prior.entropy
        return {
            "held_out_loss": float(functional.inference_loss(log_prob, latent)),
            "held_out_accuracy": float((log_prob.argmax(-1) == latent).float().mean()),
            "bound": bound,
            "bound_share": bound / entropy if entropy > 0 else 0.0,
            "aliased_codes": float(functional.aliased_codes(log_prob, latent)),
        }

    def get_extra_state(self) -> dict[str, Any]:
        """Return the optimiser's state and the buffer."""
        return {
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "window": [dict(entry) for entry in self._window],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._window = [dict(entry) for entry in state["window"]]

    def _step(self, train: TensorDict) -> Tensor:
        index = torch.randint(len(train), (self.batch_size,), device=train.device)
        batch = train[index]
        logits = self.estimator.logits(batch, noisy=True)
        loss = functional.inference_loss(logits, batch.get(self.latent_key))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _data(self) -> TensorDict:
        """Join the buffer: features and codes in the root, ``[N]``."""
        if not self._window:
            raise ConfigurationError(
                "expected rollouts to learn from, got none; call observe(rollout) before update()"
            )
        latent = torch.cat([entry["latent"] for entry in self._window])
        data = TensorDict({}, [len(latent)], device=latent.device).set(self.latent_key, latent)
        for i, key in enumerate(self.feature_keys):
            data.set(key, torch.cat([entry["features"][i] for entry in self._window]))
        return data

    def _features(self, rollout: TensorDictBase, rows: Tensor) -> list[Tensor]:
        """Return a copy of each feature at these rows, ``[n, ...]``."""
        features = []
        for key in self.feature_keys:
            name = ("next", *key) if isinstance(key, tuple) else ("next", key)
            value = require(rollout, name, "the discoverer")
            value = value.flatten(0, rollout.ndim - 1)[rows]
            if not bool(torch.isfinite(value).all()):
                raise NonFiniteError(
                    f"expected finite features under {name!r}, got NaN or infinity; look for "
                    "terminal observations that an automatic reset has replaced"
                )
            features.append(value)
        return features


def _valid(rollout: TensorDictBase) -> Tensor:
    """Return which rows of a flattened rollout count, ``[N]`` bool."""
    mask = rollout.get(("collector", "mask"), None)
    if mask is None:
        return torch.ones(rollout.numel(), dtype=torch.bool, device=rollout.device)
    return mask.reshape(-1)


def _held_out(rollout: TensorDictBase) -> Tensor:
    """Return which rows of a flattened rollout are kept from training, ``[N]`` bool."""
    if rollout.ndim > 1 and len(rollout) >= HELD_OUT:
        groups = torch.arange(len(rollout), device=rollout.device)
        groups = groups.repeat_interleave(rollout.numel() // len(rollout))
    else:
        groups = _episodes(rollout)
    return groups % HELD_OUT == 0


def _episodes(rollout: TensorDictBase) -> Tensor:
    """Number the episodes of a flattened rollout, ``[N]``; single rows where they are unknown."""
    rows = torch.arange(rollout.numel(), device=rollout.device)
    done = rollout.get(("next", "done"), None)
    if done is None:
        return rows
    ends = done.reshape(rollout.batch_size).clone()
    ends[..., -1] = True
    ends = ends.reshape(-1)
    episodes = ends.cumsum(0) - ends.to(torch.int64)
    return episodes if int(episodes[-1]) > 0 else rows
