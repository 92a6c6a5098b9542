"""Matching the returns of rollouts that began alike, instead of maximising them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from modereg import functional, keys
from modereg.devices import module_device
from modereg.errors import ConfigurationError, ShapeError
from modereg.objectives._base import PlainLoss
from modereg.reading import in_next, require, valid_rows
from modereg.steering import SteeringPolicy

__all__ = ["GroupMatchingLoss"]


class GroupMatchingLoss(PlainLoss):
    r"""Lets each of K rollouts from one state become as likely as its return says.

    The group loss of Uni-TMPO (arXiv 2609.34688): ``loss_matching`` is the mean of

    .. math::
        KL(q \| p), \quad q = \mathrm{softmax}(\beta \hat R), \quad p = \mathrm{softmax}(s)

    (:func:`~modereg.functional.group_matching`) over the groups whose returns differ, s being the
    mean over a rollout's decisions of :math:`\log \psi(w | s, z)`, as the paper takes that of an
    episode's chunks: sums over whole episodes would let one rollout take all of p. Where no group's
    returns differ it is 0, with a gradient of 0. Rollouts that pay alike are made equally likely,
    so what the groups show is not forgotten for a little more return; what they do not show is not
    looked after, and nothing makes a way commandable.

    Args:
        actor_network: psi(w | s, z).
        beta: nats by which a rollout becomes likelier, a standard deviation of its group's returns.
        least_spread: standard deviation of its returns above which a group counts.

    Raises:
        ConfigurationError: if an option is out of range.
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that :meth:`set_keys` accepts."""

        action: NestedKey = keys.ACTION
        reward: NestedKey = keys.REWARD

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    actor_network: SteeringPolicy

    def __init__(
        self, actor_network: SteeringPolicy, *, beta: float = 1.0, least_spread: float = 1e-3
    ) -> None:
        super().__init__()
        for name, value in {"beta": beta, "least_spread": least_spread}.items():
            if not 0.0 < value < math.inf:
                raise ConfigurationError(f"expected {name} above 0 and finite, got {value}")
        self.actor_network, self.beta, self.least_spread = actor_network, beta, least_spread

    def _read_keys(self) -> list[NestedKey]:
        accepted = self.tensor_keys
        return [*self.actor_network.in_keys, accepted.action, in_next(accepted.reward)]

    def _written_keys(self) -> list[NestedKey]:
        return ["loss_matching", "groups"]

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the loss of groups of rollouts.

        Args:
            tensordict: ``[G, K, T]`` decisions, K at least 2; those with a false ``("collector",
                "mask")`` are left out, as after the end of an episode.

        Returns:
            Scalars: ``loss_matching``, and ``groups``, the share of them that count.

        Raises:
            ShapeError: if the batch is of another shape.
            KeyMismatchError: if an entry is missing.
        """
        if tensordict.ndim != 3 or tensordict.shape[1] < 2:
            raise ShapeError(
                "expected groups of at least two rollouts, [G, K, T], got a batch of shape "
                f"{tuple(tensordict.shape)}"
            )
        scores, returns = self._rollouts(tensordict)
        differ = returns.std(-1, correction=0) > self.least_spread
        loss = 0.0 * scores.sum()
        if bool(differ.any()):
            matching = functional.group_matching(scores[differ], returns[differ], self.beta)
            loss = matching.mean()
        return TensorDict({"loss_matching": loss, "groups": differ.to(scores.dtype).mean()})

    def _rollouts(self, data: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Return s and the undiscounted return of rollouts, ``[G, K]`` each."""
        reader, accepted, valid = type(self).__name__, self.tensor_keys, valid_rows(data)
        if valid is None:
            valid = torch.ones(data.shape, dtype=torch.bool, device=module_device(self))
        rows = data[valid]
        noise = require(rows, accepted.action, reader)
        log_prob = self.actor_network.distribution(rows).log_prob(noise)
        reward = require(rows, in_next(accepted.reward), reader).squeeze(-1)
        scores, returns = (
            part.new_zeros(valid.shape).masked_scatter(valid, part).sum(-1)
            for part in (log_prob, reward)
        )
        return scores / valid.sum(-1).clamp_min(1), returns
