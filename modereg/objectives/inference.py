"""The loss of a classifier of codes, in TorchRL's form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.objectives.common import LossModule

from modereg import functional, keys
from modereg.errors import ConfigurationError
from modereg.estimators import CategoricalMI, check_support
from modereg.reading import evaluate, require

__all__ = ["InferenceLoss"]


class InferenceLoss(LossModule):
    r"""Cross entropy :math:`-E \log q(z \mid s)` of the codes (BMD, arXiv 2605.11387).

    The network's parameters are shared with the estimator, so that a
    :class:`~modereg.transforms.MIReward` that reads it sees every optimiser step. Noise on the
    input, where q has any, acts on ``loss_inference`` alone. Rows with a false
    ``("collector", "mask")`` do not count towards the loss.

    Args:
        estimator: q and its prior.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that :meth:`set_keys` accepts."""

        latent: NestedKey = keys.LATENT
        logits: NestedKey = keys.LOGITS
        priority_weight: NestedKey = "_weight"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    inference_network: TensorDictModuleBase
    inference_network_params: TensorDictParams
    target_inference_network_params: TensorDictParams

    def __init__(self, estimator: CategoricalMI, *, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction
        self.prior = estimator.prior
        self.register_buffer("log_prior", estimator.log_prior.clone(), persistent=False)
        self.convert_to_functional(estimator.network, "inference_network")
        self.set_keys(latent=estimator.latent_key, logits=estimator.logits_key)

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries that it reads; the priority weight only where there is one."""
        return [*self.inference_network.in_keys, self.tensor_keys.latent]

    @in_keys.setter
    def in_keys(self, values: Any) -> None:
        raise ConfigurationError(f"expected set_keys(...) to rename entries, got in_keys={values}")

    @property
    def out_keys(self) -> list[NestedKey]:
        """Scalars that it returns."""
        return ["loss_inference", "mode_accuracy", "mi_bound"]

    @out_keys.setter
    def out_keys(self, values: Any) -> None:
        raise ConfigurationError(f"expected out_keys to stay as they are, got {values}")

    def _forward_value_estimator_keys(self, **kwargs: Any) -> None:
        """Do nothing: there is no value estimator."""

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the loss and detached figures of a batch.

        Args:
            tensordict: features and codes, ``[*B]``; an optional weight ``[*B]``.

        Returns:
            ``loss_inference`` (nats), ``mode_accuracy`` in [0, 1] and ``mi_bound`` (nats), the last
            two of the clean input. They are estimates only where q was not trained.

        Raises:
            KeyMismatchError: if a feature or the code is missing.
            ConfigurationError: if a code lies outside the prior's support.
        """
        latent = require(tensordict, self.tensor_keys.latent, "InferenceLoss")
        check_support(self.prior, latent, self.tensor_keys.latent)
        nll = functional.inference_nll(self._logits(tensordict, noisy=True), latent)
        weights = tensordict.get(self.tensor_keys.priority_weight, None)
        loss = self._reduce_loss(nll, tensordict=tensordict, weights=weights)
        with torch.no_grad():
            logits = self._logits(tensordict, noisy=False)
            hits = (logits.argmax(-1) == latent).to(logits.dtype)
            ratio = functional.categorical_log_ratio(logits, latent, self.log_prior)
        figures = {"mode_accuracy": hits, "mi_bound": ratio}
        means = {
            name: self._reduce_loss(value, tensordict=tensordict, reduction="mean")
            for name, value in figures.items()
        }
        return TensorDict({"loss_inference": loss, **means})

    def _logits(self, tensordict: TensorDictBase, *, noisy: bool) -> Tensor:
        network = self.inference_network
        with self.inference_network_params.to_module(network, preserve_module_state=False):
            key = self.tensor_keys.logits
            return evaluate(network, tensordict, key, noisy=noisy, reader="q")
