"""The loss of an estimator of information, in TorchRL's form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from modereg import keys
from modereg.estimators import RewardEstimator, check_support
from modereg.objectives._base import PlainLoss
from modereg.priors import CategoricalPrior
from modereg.reading import in_next, require, require_finite, require_rows, valid_rows

__all__ = ["InferenceLoss"]


class InferenceLoss(PlainLoss):
    r"""What an estimator minimises: for a classifier the cross entropy :math:`-E \log q(z \mid s)`.

    The estimator itself is held, not a functional copy of its parameters, so that a
    :class:`~modereg.transforms.MIReward` that reads it sees every optimiser step. Noise on the
    input, where there is any, acts on ``loss_inference`` alone. Every estimator reads its features
    in the root: where its ``source`` is ``"next"``, give what ``next`` holds, beside the code.
    Rows with a false ``("collector", "mask")`` count towards nothing and may hold anything.

    Args:
        estimator: any estimator; see its ``sample_loss`` for the equation and its source.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        figures: whether the detached figures are written beside the loss, which costs a second
            reading of the clean input.
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that :meth:`set_keys` accepts."""

        latent: NestedKey = keys.LATENT
        priority_weight: NestedKey = "_weight"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self, estimator: RewardEstimator, *, reduction: str = "mean", figures: bool = True
    ) -> None:
        super().__init__()
        self.estimator, self.reduction, self.figures = estimator, reduction, figures
        self.set_keys(latent=estimator.latent_key)

    def _read_keys(self) -> list[NestedKey]:
        features = self.estimator.in_keys
        after = [in_next(key) for key in features] if self.estimator.transitions else []
        return [*features, *after, self.tensor_keys.latent]

    def _written_keys(self) -> list[NestedKey]:
        if not self.figures:
            return ["loss_inference"]
        return ["loss_inference", *(["mode_accuracy"] * self._discrete), "mi_bound"]

    @property
    def _discrete(self) -> bool:
        return isinstance(self.estimator.prior, CategoricalPrior)

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the loss and detached figures of a batch.

        Args:
            tensordict: features and codes, ``[*B]``; for an estimator of ``transitions`` the
                features in ``next`` too; an optional weight ``[*B]``.

        Returns:
            ``loss_inference``, ``mi_bound`` (the estimator's ``bound``) and, for discrete codes,
            ``mode_accuracy`` in [0, 1], the last two of the clean input and NaN where no row
            counts. They are estimates only where the estimator was not trained.

        Raises:
            KeyMismatchError: if a feature or the code is missing.
            NonFiniteError: if a feature of a row that counts is not finite.
            ShapeError: if the codes are not of the prior's shape.
            ConfigurationError: if a code lies outside the prior's support, or the batch is empty.
        """
        valid = valid_rows(tensordict, self._loss_mask_keys())
        rows = self._rows(tensordict, valid)
        losses = self.estimator.sample_loss(rows)
        if valid is not None:
            losses = losses.new_zeros(tensordict.batch_size).masked_scatter(valid, losses)
        weights = tensordict.get(self.tensor_keys.priority_weight, None)
        out = {"loss_inference": self._reduce_loss(losses, tensordict=tensordict, weights=weights)}
        if self.figures:
            out |= self._figures(rows)
        return TensorDict(out)

    def _rows(self, tensordict: TensorDictBase, valid: Tensor | None) -> TensorDictBase:
        """Return what the estimator reads of the rows that count, ``[*B]`` or ``[n]``."""
        require_rows(tensordict, "InferenceLoss")
        latent = require(tensordict, self.tensor_keys.latent, "InferenceLoss")
        rows = tensordict.select(*self.in_keys, strict=False)
        if self.tensor_keys.latent != self.estimator.latent_key:
            rows = rows.set(self.estimator.latent_key, latent)
        rows = rows if valid is None else rows[valid]
        codes = self.estimator.codes(rows)
        check_support(self.estimator.prior, codes, self.tensor_keys.latent)
        features = [key for key in self.in_keys if key != self.tensor_keys.latent]
        require_finite(rows, features, "InferenceLoss")
        return rows

    @torch.no_grad()
    def _figures(self, rows: TensorDictBase) -> dict[str, Tensor]:
        figures = {"mi_bound": self.estimator.bound(rows)}
        if self._discrete:
            log_prob = self.estimator.log_prob(rows)
            hits = log_prob.argmax(-1) == self.estimator.codes(rows)
            figures["mode_accuracy"] = hits.to(log_prob.dtype).mean()
        return figures
