"""Discovery by RL, as in the paper: a classifier of codes learns beside the policy."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch.utils._pytree import tree_map

from modereg.devices import module_device
from modereg.discovery.base import ModeDiscoverer
from modereg.errors import ConfigurationError
from modereg.estimators import RewardEstimator, Source, check_support
from modereg.networks import flat_features
from modereg.reading import in_next, require, require_finite, require_rows, valid_rows

__all__ = ["VariationalModeDiscoverer"]

HELD_OUT = 10
"""One episode in this many is kept from training, for the metrics."""


class VariationalModeDiscoverer(ModeDiscoverer):
    r"""The paper's discoverer: an estimator learns online which code made the trajectory.

    The estimator is trained by its own loss on what was observed last, while a policy is trained on
    the reward that it pays; with :class:`~modereg.estimators.CategoricalMI` that is cross entropy
    and :math:`\log q(z \mid s) - \log p(z)` (BMD, arXiv 2605.11387, Eq. 1 and 2). Another estimator
    is another argument and nothing else. Noise on its input in training, none when it is read,
    keeps it from telling codes apart by trifles.

    **Feature scaling.** :meth:`fit` hands features from rollouts of the frozen base to the
    estimator, which takes their mean and *one* common scale
    (:meth:`~modereg.networks.InputNoise.fit`).

    **Held-out data.** The metrics are of data that is not trained on: every tenth environment of
    a ``[B, T]`` rollout with B of at least 10; otherwise every tenth episode by ``("next",
    "done")``; every tenth row, where there is no ``done`` or but one episode. In a flat batch that
    was shuffled before, neighbouring rows are no episodes and the metrics are optimistic.

    **Randomness** comes from torch's global generator. A ``state_dict`` holds network, scale,
    noise, optimiser and buffer as plain tensors, numbers, lists and dicts, so that
    ``torch.load(weights_only=True)`` reads it and training goes on bit for bit.

    Args:
        estimator: what is learned; its ``source`` says where a transition has the features.
        window: how many of the last :meth:`observe` calls are kept.
        steps: optimiser steps of one :meth:`update`.
        batch_size: rows of one step, drawn with replacement.
        lr: learning rate of Adam.

    Raises:
        ConfigurationError: if an option is out of range.
    """

    def __init__(
        self,
        estimator: RewardEstimator,
        *,
        window: int = 4,
        steps: int = 20,
        batch_size: int = 512,
        lr: float = 1e-3,
    ) -> None:
        if not isinstance(estimator, RewardEstimator):
            raise ConfigurationError(
                f"expected an estimator such as CategoricalMI(feature_dim, num_codes), got "
                f"{estimator!r}"
            )
        if min(window, steps, batch_size) < 1 or not 0 < lr < float("inf"):
            raise ConfigurationError(
                "expected window, steps and batch_size of at least 1 and a positive lr, got "
                f"{window}, {steps}, {batch_size} and {lr}"
            )
        super().__init__(estimator)
        self.window, self.steps, self.batch_size = window, steps, batch_size
        self.optimizer = torch.optim.Adam(self.estimator.parameters(), lr, fused=True)
        self._window: list[dict[str, Any]] = []

    @torch.no_grad()
    def fit(self, rollout: TensorDictBase) -> None:
        """Set the common scale of the features, and the default noise, from base rollouts.

        Args:
            rollout: ``[B, T]`` or ``[N]`` transitions, read as by :meth:`observe`; the code is not
                needed.

        Raises:
            ConfigurationError: if the estimator scales its input itself.
            KeyMismatchError: if a feature is missing.
            NonFiniteError: if a feature is not finite.
        """
        rollout = self._read(rollout)
        features = self._features(rollout, _rows(rollout), self.estimator.source)
        self.estimator.fit_features(flat_features(features))

    @torch.no_grad()
    def observe(self, rollout: TensorDictBase) -> None:
        """Keep the rows of a rollout, and forget those of the oldest beyond the window.

        Args:
            rollout: ``[B, T]`` or ``[N]`` transitions: the code in the root, the features in
                ``next``, in the root or in both, as the estimator reads them. Rows with a false
                ``("collector", "mask")`` are dropped.

        Raises:
            KeyMismatchError: if an entry is missing.
            ConfigurationError: if a code lies outside the prior's support.
            NonFiniteError: if a feature is not finite.
        """
        latent = require(rollout, self.latent_key, "the discoverer")
        rollout = self._read(rollout)
        rows, latent = _rows(rollout), rollout.get(self.latent_key)
        latent = latent.flatten(0, rollout.ndim - 1)[rows]
        check_support(self.prior, latent, self.latent_key)
        entry = {
            "features": self._features(rollout, rows, self._first),
            "latent": latent,
            "held_out": _held_out(rollout)[rows],
        }
        if self.estimator.transitions:
            entry["after"] = self._features(rollout, rows, "next")
        self._window = [*self._window, entry][-self.window :]

    def reset_buffer(self) -> None:
        """Forget what was observed; network and optimiser stay."""
        self._window = []

    def update(self) -> dict[str, float]:
        """Take ``steps`` optimiser steps on the buffer.

        Returns:
            ``loss``: mean of the steps, with noise. Of held-out data, without noise, the
            estimator's :meth:`~modereg.estimators.RewardEstimator.figures`, among them ``bound``
            (nats, unclamped).

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
        return {"loss": float(losses.mean()), **self.estimator.figures(data[held])}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the optimiser's state and the buffer."""
        return {
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "window": [dict(entry) for entry in self._window],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        device = module_device(self.estimator)
        self._window = [tree_map(lambda value: value.to(device), e) for e in state["window"]]

    def _step(self, train: TensorDict) -> Tensor:
        index = torch.randint(len(train), (self.batch_size,), device=train.device)
        loss = self.estimator.sample_loss(train[index]).mean()
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
            if self.estimator.transitions:
                data.set(in_next(key), torch.cat([entry["after"][i] for entry in self._window]))
        return data

    @property
    def _first(self) -> Source:
        """Where a transition has the features that are read in the root of training data."""
        return "root" if self.estimator.transitions else self.estimator.source

    def _read(self, rollout: TensorDictBase) -> TensorDictBase:
        """Return what is read of a rollout, where the estimator lives."""
        require_rows(rollout, "the discoverer")
        names = [name for key in self.feature_keys for name in (key, in_next(key))]
        marks = [self.latent_key, ("next", "done"), ("collector", "mask")]
        read = rollout.select(*names, *marks, strict=False)
        device = module_device(self.estimator)
        return read if device is None else read.to(device)

    def _features(self, rollout: TensorDictBase, rows: Tensor, source: Source) -> list[Tensor]:
        """Return a copy of each feature at these rows, ``[n, ...]``."""
        names = [in_next(key) if source == "next" else key for key in self.feature_keys]
        values = [require(rollout, name, "the discoverer") for name in names]
        what = "what the discoverer observes"
        require_finite(rollout, names, what, valid=valid_rows(rollout))
        return [value.flatten(0, rollout.ndim - 1)[rows] for value in values]


def _rows(rollout: TensorDictBase) -> Tensor:
    """Return the numbers of the rows of a flattened rollout that count, ``[n]`` int64."""
    valid = valid_rows(rollout)
    if valid is None:
        return torch.arange(rollout.batch_size.numel(), device=rollout.device)
    return valid.reshape(-1).nonzero().squeeze(-1)


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
    rows = torch.arange(rollout.batch_size.numel(), device=rollout.device)
    done = rollout.get(("next", "done"), None)
    if done is None:
        return rows
    ends = done.reshape(rollout.batch_size).clone()
    ends[..., -1] = True
    ends = ends.reshape(-1)
    episodes = ends.cumsum(0) - ends.to(torch.int64)
    return episodes if int(episodes[-1]) > 0 else rows
