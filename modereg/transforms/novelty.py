"""Exploration rewards: novelty by a distilled random network, and the entropy of a batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase, Transform

from modereg import functional, keys
from modereg._torchrl import inner_transforms
from modereg.errors import ConfigurationError
from modereg.information import particle_entropy
from modereg.novelty import RandomNetworkDistillation, read_features
from modereg.transforms._attaching import check_attached
from modereg.transforms._common import (
    copy_sharing,
    expand_mask,
    require,
    valid_rows,
)
from modereg.transforms._vector_gym import check_terminal_observations

__all__ = ["NoveltyReward", "ParticleEntropyReward"]


class _Bonus(Transform):
    """Writes a bonus, and ``reward + coef * bonus`` where asked, into ``next``.

    Args:
        bonus_key: entry that is written, ``[*B, 1]``.
        total_key: entry of the sum, of the reward's shape; None writes no sum.
        reward_key: entry of the environment's reward, which gives the dtype.
        coef: weight in the sum.
    """

    coef: Tensor

    def __init__(
        self,
        bonus_key: NestedKey,
        total_key: NestedKey | None,
        reward_key: NestedKey,
        coef: float,
    ) -> None:
        super().__init__()
        written = [key for key in (bonus_key, total_key) if key is not None]
        if reward_key in written or len(set(written)) < len(written):
            raise ConfigurationError(
                f"expected keys of their own for what is written, got {written} beside the reward "
                f"{reward_key!r}, which is never overwritten; rename them"
            )
        self.bonus_key, self.total_key, self.reward_key = bonus_key, total_key, reward_key
        self.register_buffer("coef", torch.tensor(float(coef)))

    @abstractmethod
    def _bonus(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> Tensor:
        """Return the bonus, ``[*B]``."""

    @torch.no_grad()
    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        reward = require(next_tensordict, self.reward_key, repr(self))
        bonus = self._bonus(tensordict, next_tensordict).to(reward)
        next_tensordict.set(self.bonus_key, bonus.unsqueeze(-1))
        if self.total_key is not None:
            total = reward + self.coef.to(reward) * expand_mask(bonus, reward)
            next_tensordict.set(self.total_key, total)
        return next_tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the rewards into ``next`` of stored or collected transitions ``[*B]``."""
        self._step(tensordict, require(tensordict, "next", repr(self)))
        return tensordict

    def transform_reward_spec(self, reward_spec: Composite) -> Composite:
        """Add what is written."""
        reward = reward_spec[self.reward_key]
        options = {"dtype": reward.dtype, "device": reward.device}
        reward_spec[self.bonus_key] = Unbounded((*reward_spec.shape, 1), **options)
        if self.total_key is not None:
            reward_spec[self.total_key] = Unbounded(reward.shape, **options)
        return reward_spec


class NoveltyReward(_Bonus):
    r"""Writes ``novelty_reward`` into ``next``, and ``reward + coef * novelty_reward`` where asked.

    With n the novelty of :class:`~modereg.novelty.RandomNetworkDistillation`:

    - ``"rnd"``: :math:`n(s_{t+1})` (RND, arXiv 1810.12894).
    - ``"novel_d"``: :math:`\max(n(s_{t+1}) - \alpha\, n(s_t), 0)` (NovelD, NeurIPS 2021, without
      its restriction to the first visit in an episode). It pays at the border of the known, and
      little for staying beyond it. For NovelD as published give a distillation with
      ``measure="root"``; DDiffPG (arXiv 2406.00681) has ``alpha=0.5`` and ``coef=0.01``.

    The same transform serves in an environment, as the ``postproc`` of a collector and in a replay
    buffer, where it recomputes the reward with the newest predictor; ``reward`` is never
    overwritten. It reads the distillation, which it shares with
    :class:`~modereg.objectives.DistillationLoss`, and never changes it. The distillation is none of
    its submodules: only ``coef`` is in its ``state_dict``. Behind other processes (inside of
    ParallelEnv's workers) it would read a copy that does not learn: put it outside, or into the
    ``postproc``. Do not put it behind ``MultiStepTransform``, which sums rewards when data are
    written. Rows with a false ``("collector", "mask")`` get 0 and may hold anything.

    Args:
        distillation: gives the novelty.
        kind: see above.
        alpha: of NovelD, not negative.
        coef: weight in the sum; a buffer, so ``coef.fill_(x)`` schedules it.
        reward_key: entry of the environment's reward; another one's sum, to add to it.
        novelty_key: entry that is written, ``[*B, 1]``.
        total_key: entry of the sum, such as ``modereg.keys.EXPLORATION_REWARD``; None writes none.

    Raises:
        ConfigurationError: if an option is unknown or out of range, or would overwrite the reward;
            on attaching, if the environment has the entries that it writes, or for transforms in an
            order that changes what they mean.
        TerminalObservationError: on attaching, if the environment loses the observation in which an
            episode ended.
        NonFiniteError: in a step, for features that are not finite.
        KeyMismatchError: in a step, if an entry is missing.
        ShapeError: in a step, if the features have another length than the distillation's.
    """

    def __init__(
        self,
        distillation: RandomNetworkDistillation,
        kind: Literal["rnd", "novel_d"] = "rnd",
        *,
        alpha: float = 0.5,
        coef: float = 1.0,
        reward_key: NestedKey = keys.REWARD,
        novelty_key: NestedKey = keys.NOVELTY_REWARD,
        total_key: NestedKey | None = None,
    ) -> None:
        if kind not in ("rnd", "novel_d"):
            raise ConfigurationError(f"expected kind to be one of ('rnd', 'novel_d'), got {kind!r}")
        if not alpha >= 0:
            raise ConfigurationError(f"expected a non-negative alpha, got {alpha}")
        super().__init__(novelty_key, total_key, reward_key, coef)
        self.__dict__["_distillation"] = distillation
        self.kind, self.alpha = kind, alpha

    @property
    def distillation(self) -> RandomNetworkDistillation:
        """The distillation, shared with whoever trains it."""
        return self.__dict__["_distillation"]

    def __deepcopy__(self, memo: dict[int, Any]) -> NoveltyReward:
        """Copy all but the distillation: collectors copy their ``postproc``, and it learns on."""
        return copy_sharing(self, memo, self.distillation)

    def set_container(self, container: Transform | EnvBase) -> None:
        """Attach the transform and check that the ends of episodes can be seen."""
        super().set_container(container)
        check_attached(self, {"novelty_key": self.bonus_key, "total_key": self.total_key})
        if self.parent is not None:
            inner, env = inner_transforms(self)
            check_terminal_observations(env, inner)

    def _bonus(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> Tensor:
        valid = valid_rows(tensordict)
        bonus = self._novelty(next_tensordict, valid)
        if self.kind == "novel_d":
            bonus = functional.novel_d(bonus, self._novelty(tensordict, valid), self.alpha)
        return bonus if valid is None else bonus * valid

    def _novelty(self, source: TensorDictBase, valid: Tensor | None) -> Tensor:
        return self.distillation.novelty(self.distillation.features(source, valid=valid))

    def __repr__(self) -> str:
        """Name the kind."""
        return f"NoveltyReward(kind={self.kind!r})"


class ParticleEntropyReward(_Bonus):
    r"""Writes APT's ``entropy_reward`` into ``next``: how far each state is from its neighbours.

    :math:`\log(1 + \frac{1}{k} \sum_j \|s_{t+1} - s_j\|)` over the k nearest next states of the
    batch that it is called on (Liu and Abbeel, arXiv 2103.04551), by
    :func:`~modereg.information.particle_entropy`. It belongs into a replay buffer, where the
    batch is a sample of what was visited, or into a collector's ``postproc``, where the batch is
    what was just collected. In an environment a batch is one step, which says nothing about visits,
    so there it is refused. Distances are in the features' own units: let the entries be encoded or
    standardised where these differ. Rows with a false ``("collector", "mask")`` are nobody's
    neighbour and get 0.

    Args:
        in_keys: entries of the features, flattened beyond the batch and concatenated.
        k: number of neighbours; a batch must have more rows.
        coef: weight in the sum; a buffer, so ``coef.fill_(x)`` schedules it.
        chunk_size: rows whose distances are held at a time.
        reward_key: entry of the environment's reward; another one's sum, to add to it.
        entropy_key: entry that is written, ``[*B, 1]``.
        total_key: entry of the sum, such as ``modereg.keys.EXPLORATION_REWARD``; None writes none.

    Raises:
        ConfigurationError: if an option is out of range or would overwrite the reward; on attaching
            to an environment; in a call, if there are not more than k rows.
        NonFiniteError: in a call, for features that are not finite.
        KeyMismatchError: in a call, if an entry is missing.
    """

    def __init__(
        self,
        in_keys: Sequence[NestedKey] = (keys.OBSERVATION,),
        *,
        k: int = 12,
        coef: float = 1.0,
        chunk_size: int = 1024,
        reward_key: NestedKey = keys.REWARD,
        entropy_key: NestedKey = keys.ENTROPY_REWARD,
        total_key: NestedKey | None = None,
    ) -> None:
        for name, value in (("k", k), ("chunk_size", chunk_size)):
            if value < 1:
                raise ConfigurationError(f"expected a positive {name}, got {value}")
        super().__init__(entropy_key, total_key, reward_key, coef)
        self.feature_keys = keys.key_list(in_keys)
        self.k, self.chunk_size = k, chunk_size

    def set_container(self, container: Transform | EnvBase) -> None:
        """Attach the transform to a replay buffer; refuse an environment."""
        super().set_container(container)
        if self.parent is not None:
            raise ConfigurationError(
                "expected ParticleEntropyReward in a replay buffer or as a collector's postproc, "
                "got an environment, whose batch is one step and no sample of the visited states; "
                "append it to the buffer"
            )

    def _bonus(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> Tensor:
        valid = valid_rows(tensordict)
        x = read_features(next_tensordict, self.feature_keys, repr(self), valid)
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        rows = torch.ones_like(x[..., 0], dtype=torch.bool) if valid is None else valid
        bonus = torch.zeros_like(x[..., 0])
        bonus[rows] = particle_entropy(x[rows], k=self.k, chunk_size=self.chunk_size)
        return bonus

    def __repr__(self) -> str:
        """Name the number of neighbours."""
        return f"ParticleEntropyReward(k={self.k})"
