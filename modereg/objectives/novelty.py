"""The loss of a distilled random network, in TorchRL's form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, unravel_key
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg.keys import key_list
from modereg.novelty import RandomNetworkDistillation
from modereg.objectives._base import PlainLoss
from modereg.reading import require_rows, valid_rows

__all__ = ["DistillationLoss"]


class DistillationLoss(PlainLoss):
    r"""Squared error :math:`E \frac{1}{D} \|\hat f(s) - f(s)\|^2` of the next states (RND).

    The distillation is shared with :class:`~modereg.transforms.NoveltyReward`, which sees every
    optimiser step. Only the predictor learns: its target is frozen, the features are detached. Each
    call adds its batch to the distillation's moments first, the one place where they change on
    their own. Rows with a false ``("collector", "mask")`` count towards nothing and may hold
    anything.

    Args:
        distillation: the predictor, its target and the moments.
        in_keys: entries to read; None takes the distillation's in ``next``.
        proportion: share of the rows, drawn anew in each call, that the predictor learns from. The
            paper keeps 25 % of the rows of 128 environments, so that it does not learn faster with
            more of them.
        observe: whether the moments are updated; turn it off to evaluate.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, where rows that were not drawn are 0.

    Raises:
        ConfigurationError: if an option is out of range.
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that :meth:`set_keys` accepts."""

        priority_weight: NestedKey = "_weight"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self,
        distillation: RandomNetworkDistillation,
        *,
        in_keys: Sequence[NestedKey] | None = None,
        proportion: float = 1.0,
        observe: bool = True,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if not 0 < proportion <= 1:
            raise ConfigurationError(f"expected a proportion in (0, 1], got {proportion}")
        if reduction not in ("mean", "sum", "none"):
            raise ConfigurationError(
                f"expected reduction to be one of ('mean', 'sum', 'none'), got {reduction!r}"
            )
        self.distillation = distillation
        if in_keys is None:
            in_keys = [unravel_key(("next", key)) for key in distillation.in_keys]
        self._in_keys = key_list(in_keys)
        self.proportion, self.observe, self.reduction = proportion, observe, reduction

    def _read_keys(self) -> list[NestedKey]:
        return list(self._in_keys)

    def _written_keys(self) -> list[NestedKey]:
        return ["loss_distillation", "novelty"]

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the loss and a detached figure of a batch.

        Args:
            tensordict: features, ``[*B]``, at least one dimension; an optional weight ``[*B]``.

        Returns:
            ``loss_distillation`` and ``novelty``, the mean novelty of all valid rows before the
            optimiser's step.

        Raises:
            KeyMismatchError: if a feature is missing.
            NonFiniteError: if a feature of a valid row is not finite.
            ShapeError: if there are more or fewer features than the networks read.
            ConfigurationError: if the batch is empty.
        """
        require_rows(tensordict, "DistillationLoss")
        valid = valid_rows(tensordict, self._loss_mask_keys())
        features = self.distillation.features(tensordict, self._in_keys, valid)
        if self.observe:
            error = self.distillation.observe(features, valid)
        else:
            error = self.distillation(features)
        novelty = self.distillation.scaled(error.detach())
        return TensorDict(
            {
                "loss_distillation": self._loss(error, tensordict, valid),
                "novelty": self._reduce_loss(novelty, tensordict=tensordict, reduction="mean"),
            }
        )

    def _loss(self, error: Tensor, tensordict: TensorDictBase, valid: Tensor | None) -> Tensor:
        weights = tensordict.get(self.tensor_keys.priority_weight, None)
        if self.proportion == 1:
            return self._reduce_loss(error, tensordict=tensordict, weights=weights)
        drawn = _draw(
            torch.ones_like(error, dtype=torch.bool) if valid is None else valid, self.proportion
        )
        if self.reduction == "none":
            return self._reduce_loss(error * drawn, tensordict=tensordict, weights=weights)
        return self._reduce_loss(error, tensordict=tensordict, mask=drawn, weights=weights)


def _draw(valid: Tensor, proportion: float) -> Tensor:
    """Return which rows ``[*B]`` are drawn: a share of the valid ones, rounded up."""
    order = torch.rand(valid.shape, device=valid.device).masked_fill(~valid, 2.0).flatten()
    number = math.ceil(proportion * int(valid.sum()))
    return (order.argsort().argsort() < number).view_as(valid)
