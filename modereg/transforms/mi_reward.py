"""The intrinsic reward: how much a state says about the code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs import EnvBase, StepCounter, Transform

from modereg import functional, keys
from modereg._torchrl import inner_transforms
from modereg.errors import ConfigurationError
from modereg.estimators import RewardEstimator, check_support
from modereg.layout import Layout
from modereg.priors import Prior
from modereg.reading import in_next, require_finite
from modereg.transforms._attaching import check_attached
from modereg.transforms._common import (
    any_flag,
    copy_sharing,
    require,
    transforms_within,
    valid_rows,
)
from modereg.transforms._vector_gym import check_terminal_observations
from modereg.transforms.time_limit import TimeLimit

__all__ = ["MIReward"]

Clamp = tuple[float, float] | Literal["symmetric"] | None

_FINAL_FIX = (
    "a payment there would be counted again through the value of the last state; let the time "
    "limit terminate (TimeLimit(max_steps, 'terminates'), with the elapsed share among the "
    "observations) or choose timing='difference'"
)


class MIReward(Transform):
    r"""Writes ``mi_reward`` and ``regularized_reward = reward / unit + coef * mi_reward``.

    Both stand in ``next``. With :math:`l = (\log q(z \mid s) - \log p(z)) / H(p)` (BMD, arXiv
    2605.11387, Eq. 2), clamped, ``l_t`` at the root and ``l_tp1`` in ``next``, and n environment
    steps in the decision:

    - ``"dense"``: :math:`l_{t+1}` at every decision. It has a survival bias: it pays as long as the
      episode lives, so where success ends the episode it teaches not to succeed.
    - ``"difference"``: :math:`\gamma^n l_{t+1} - l_t`. Its return differs from that of ``"final"``
      by :math:`-l_0`, a constant of the start, so nothing is gained by living longer.
    - ``"final"``: :math:`\gamma^n l_{t+1}` where the episode terminates, 0 elsewhere; q is
      read on these rows only. Refused where episodes are truncated and their value bootstrapped.

    The code is read at the root, the features in ``next`` (and at the root for ``l_t``), or all at
    the root where the estimator says so (``source="root"``, for q(z | s, a)). The same
    transform serves in an environment, as the ``postproc`` of a collector and in a replay buffer,
    where it recomputes the reward with the newest q; ``reward`` is never overwritten. Do not put it
    behind ``MultiStepTransform``, which sums rewards when data are written. The estimator is none
    of its submodules: only ``coef`` and ``unit`` are in its ``state_dict``. Rows with a false
    ``("collector", "mask")`` get 0 and may hold anything.

    ``unit``, a buffer, is 1 until something changes it, such as a
    :class:`~modereg.balances.base.Balance`, which learns the size of the task's returns, and how
    much each code needs.

    Args:
        estimator: gives ``log_ratio``, nats.
        layout: of the environment, which says ``gamma`` and ``time_limit``, and when to pay unless
            ``timing`` does: ``"final"`` where the time limit terminates, ``"difference"`` where it
            truncates or the estimator learns from steps.
        coef: lambda, one number, or ``[K]``, one of each discrete code, read by the code of each
            row; a buffer, so ``coef.fill_(x)`` schedules it.
        timing: see above; without a layout there is no default because it decides what is learned.
        gamma: discount of one environment step, as the loss has it.
        clamp: bounds of the ratio in nats, for the reward only; ``"symmetric"`` is plus and minus
            the estimator's upper limit, None clamps nothing.
        normalize: whether to divide by the estimator's scale, H(p) for a classifier, so that an
            episode earns at most about 1; a prior of one code pays 0.
        time_limit: what the environment's time limit does, as far as you know it.
        latent_key: entry of the code; None takes the estimator's.
        reward_key: entry of the environment's reward.
        mi_key: entry that is written, ``[*B, 1]``.
        regularized_key: entry that is written, ``[*B, 1]``.
        steps_key: entry of n in ``next``; without it n is 1.

    Raises:
        ConfigurationError: if an option is unknown or out of range; for ``"final"`` with
            bootstrapped truncation (here, on attaching, or when such a step comes); on attaching,
            if the environment's codes are not those of the estimator's prior, or it has the entries
            that this writes, or for transforms in an order that changes what they mean; in a step,
            for codes outside of the prior's support.
        TerminalObservationError: on attaching, if the environment loses the observation in which an
            episode ended.
        NonFiniteError: in a step, for features that are not finite.
        KeyMismatchError: in a step, if an entry is missing.
    """

    def __init__(
        self,
        estimator: RewardEstimator,
        layout: Layout | None = None,
        *,
        timing: Literal["dense", "difference", "final"] | None = None,
        gamma: float | None = None,
        coef: float | Sequence[float] | Tensor = 1.0,
        clamp: Clamp = "symmetric",
        normalize: bool = True,
        time_limit: Literal["terminates", "truncates"] | None = None,
        latent_key: NestedKey | None = None,
        reward_key: NestedKey = keys.REWARD,
        mi_key: NestedKey = keys.MI_REWARD,
        regularized_key: NestedKey = keys.REGULARIZED_REWARD,
        steps_key: NestedKey = keys.STEPS,
    ) -> None:
        super().__init__()
        gamma, time_limit = _discounting(layout, gamma, time_limit)
        if layout is not None and timing is None:
            whole = time_limit == "terminates" and not estimator.transitions
            timing = "final" if whole else "difference"
        _check_option("timing", timing, ("dense", "difference", "final"))
        _check_option("time_limit", time_limit, ("terminates", "truncates"))
        if not 0.0 <= gamma <= 1.0:
            raise ConfigurationError(f"expected a discount in [0, 1], got {gamma}")
        if timing == "final" and time_limit == "truncates":
            raise ConfigurationError(f"timing='final' with a truncating time limit: {_FINAL_FIX}")
        self.__dict__["_estimator"] = estimator
        self.timing, self.gamma, self.normalize = timing, gamma, normalize
        if timing == "difference" and estimator.source == "root":
            raise ConfigurationError(
                "expected features of states for timing='difference', got an estimator that reads "
                "those of the root (source='root'); choose 'dense' or 'final'"
            )
        if isinstance(clamp, tuple) and not clamp[0] <= 0.0 <= clamp[1]:
            raise ConfigurationError(f"expected clamp bounds around 0, got {clamp}")
        self.clamp = clamp
        self.latent_key = estimator.latent_key if latent_key is None else latent_key
        self.reward_key, self.mi_key, self.regularized_key = reward_key, mi_key, regularized_key
        self.steps_key = steps_key
        self.register_buffer("coef", _weights(coef, estimator.prior))
        self.register_buffer("unit", torch.tensor(1.0))

    @property
    def estimator(self) -> RewardEstimator:
        """The estimator, shared with whoever trains it."""
        return self.__dict__["_estimator"]

    def __deepcopy__(self, memo: dict[int, Any]) -> MIReward:
        """Copy all but the estimator: collectors copy their ``postproc``, and q learns on."""
        return copy_sharing(self, memo, self.estimator)

    def set_container(self, container: Transform | EnvBase) -> None:
        """Attach the transform and check that environment and estimator fit."""
        super().set_container(container)
        parent = self.parent
        if parent is None:
            return
        check_attached(self, {"mi_key": self.mi_key, "regularized_key": self.regularized_key})
        inner, env = inner_transforms(self)
        check_terminal_observations(env, inner)
        if self.timing == "final":
            _refuse_truncation(transforms_within(env, inner))
        spec = parent.full_observation_spec.get(self.latent_key, None)
        if spec is not None:
            _check_codes(self.estimator.prior, spec, parent.batch_size)

    @property
    def reads(self) -> list[NestedKey]:
        """Entries of a transition that decide what is paid: what a replay buffer must keep."""
        features, root = self.estimator.in_keys, self.estimator.source == "root"
        after = [self.reward_key, self.steps_key, *(() if root else features)]
        after += ["done", "terminated"] if self.timing == "final" else []
        both = root or self.timing == "difference"
        return [self.latent_key, *(features if both else ()), *map(in_next, after)]

    # --- the ratio

    @torch.no_grad()
    def ratio(self, tensordict: TensorDictBase) -> Tensor:
        """Return l of the states that transitions ``[*B]`` led to, ``[*B]``, as it is paid.

        That is clamped, and, if so asked, divided by the estimator's scale.
        """
        latent = require(tensordict, self.latent_key, repr(self))
        return self._ratio(self._source(tensordict, tensordict.get("next")), latent)

    def _source(self, root: TensorDictBase, after: TensorDictBase) -> TensorDictBase:
        return root if self.estimator.source == "root" else after

    def _ratio(self, source: TensorDictBase, latent: Tensor) -> Tensor:
        """Return the clamped, normalised l of rows, ``[*B]``."""
        features = self.estimator.in_keys
        require_finite(source, features, repr(self))
        data = TensorDict({}, batch_size=source.batch_size, device=source.device)
        for key in features:
            data.set(key, source.get(key))
        ratio = self.estimator.log_ratio(data.set(self.estimator.latent_key, latent))
        if self.clamp is not None:
            ratio = ratio.clamp(*self._clamp_bounds())
        if not self.normalize:
            return ratio
        scale = self.estimator.scale
        return ratio / scale if scale > 0 else torch.zeros_like(ratio)

    def _clamp_bounds(self) -> tuple[float, float]:
        if isinstance(self.clamp, tuple):
            return self.clamp
        limit = self.estimator.upper_limit
        return -limit, limit

    def _num_steps(self, tensordict: TensorDictBase, dtype: torch.dtype) -> Tensor | int:
        steps = tensordict.get(self.steps_key, None)
        return 1 if steps is None else steps.view(tensordict.batch_size).to(dtype)

    def _final(
        self, source: TensorDictBase, next_tensordict: TensorDictBase, latent: Tensor
    ) -> Tensor:
        terminal = self._terminal(next_tensordict)
        reward = torch.zeros(terminal.shape, device=latent.device)
        rows = source.select(*self.estimator.in_keys, strict=False)[terminal]
        if rows.batch_size.numel():
            ratio = self._ratio(rows, latent[terminal])
            reward = reward.to(ratio.dtype)
            steps = next_tensordict.select(self.steps_key, strict=False)[terminal]
            reward[terminal] = self.gamma ** self._num_steps(steps, ratio.dtype) * ratio
        return reward

    def _terminal(self, tensordict: TensorDictBase) -> Tensor:
        """Return which rows ``[*B]`` end their episode, all of them for good."""
        done = any_flag(tensordict, ["done"])
        terminated = tensordict.get("terminated", None)
        if terminated is not None:
            cut = done & ~terminated.view(done.shape)
            if bool(cut.any()):
                raise ConfigurationError(
                    f"expected no truncated episodes with timing='final', got {int(cut.sum())}: "
                    f"{_FINAL_FIX}"
                )
        return done

    def _reward(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> Tensor:
        """Return the intrinsic reward, ``[*B]``; 0 for padding, which is not read."""
        valid = valid_rows(tensordict)
        if valid is None:
            return self._paid(tensordict, next_tensordict)
        features, flags = self.estimator.in_keys, ["done", "terminated", self.steps_key]
        root = tensordict.select(self.latent_key, *features, strict=False)
        after = next_tensordict.select(*features, *flags, strict=False)
        paid = self._paid(root[valid], after[valid])
        return paid.new_zeros(valid.shape).masked_scatter(valid, paid)

    def _paid(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> Tensor:
        """Return the intrinsic reward of rows ``[*B]``."""
        latent = require(tensordict, self.latent_key, repr(self))
        check_support(self.estimator.prior, latent, self.latent_key)
        source = self._source(tensordict, next_tensordict)
        if self.timing == "final":
            return self._final(source, next_tensordict, latent)
        l_tp1 = self._ratio(source, latent)
        if self.timing == "dense":
            return l_tp1
        l_t = self._ratio(tensordict, latent)
        steps = self._num_steps(next_tensordict, l_tp1.dtype)
        return functional.shaping(l_tp1, l_t, self.gamma, steps)

    # --- the transform

    @torch.no_grad()
    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        reward = require(next_tensordict, self.reward_key, repr(self))
        intrinsic = self._reward(tensordict, next_tensordict).to(reward.dtype).view_as(reward)
        next_tensordict.set(self.mi_key, intrinsic)
        coef = self._coef(tensordict, reward)
        regularized = reward / self.unit.to(reward.dtype) + coef * intrinsic
        return next_tensordict.set(self.regularized_key, regularized)

    def _coef(self, tensordict: TensorDictBase, reward: Tensor) -> Tensor:
        """Return lambda, one number or that of each row's code, shaped as the reward."""
        if not self.coef.ndim:
            return self.coef.to(reward.dtype)
        latent = tensordict.get(self.latent_key).clamp(0, len(self.coef) - 1)  # of padding too
        return self.coef.to(reward)[latent].view_as(reward)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the rewards into ``next`` of stored or collected transitions ``[*B]``."""
        self._step(tensordict, require(tensordict, "next", repr(self)))
        return tensordict

    def transform_reward_spec(self, reward_spec: Composite) -> Composite:
        """Add the two rewards."""
        reward = reward_spec[self.reward_key]
        for key in (self.mi_key, self.regularized_key):
            reward_spec[key] = Unbounded(reward.shape, dtype=reward.dtype, device=reward.device)
        return reward_spec

    def __repr__(self) -> str:
        """Name the estimator and the timing."""
        return f"MIReward({type(self.estimator).__name__}, timing={self.timing!r})"


def _weights(coef: float | Sequence[float] | Tensor, prior: Prior) -> Tensor:
    """Return lambda as a tensor: a scalar, or one of each code."""
    weights = torch.as_tensor(coef, dtype=torch.get_default_dtype()).clone()
    if weights.shape not in ((), (prior.num_codes,)):
        raise ConfigurationError(
            f"expected coef of one number, or of one for each discrete code, got shape "
            f"{tuple(weights.shape)} with {prior!r}"
        )
    return weights


def _discounting(
    layout: Layout | None,
    gamma: float | None,
    time_limit: Literal["terminates", "truncates"] | None,
) -> tuple[float, Literal["terminates", "truncates"]]:
    """Return the discount and what the time limit does, said once: by the layout or by hand."""
    if layout is not None:
        if gamma is not None or time_limit is not None:
            raise ConfigurationError(
                "expected gamma and time_limit from the layout alone, got them beside it; leave "
                "them out, or leave the layout out"
            )
        return layout.gamma, layout.time_limit
    if gamma is None:
        raise ConfigurationError(
            "expected the layout of the environment (env.layout), or timing and gamma, got neither"
        )
    return gamma, time_limit or "terminates"


def _check_option(name: str, value: str | None, options: tuple[str, ...]) -> None:
    if value not in options:
        raise ConfigurationError(f"expected {name} to be one of {options}, got {value!r}")


def _check_codes(prior: Prior, found: TensorSpec, batch_size: torch.Size) -> None:
    expected = prior.spec(batch_size)
    numbers = {getattr(spec, "n", prior.num_codes) for spec in (found, expected)}
    kinds = {spec.dtype.is_floating_point for spec in (found, expected)}
    if found.shape != expected.shape or len(numbers) > 1 or len(kinds) > 1:
        raise ConfigurationError(
            f"expected codes of the estimator's prior ({_codes_of(expected)}), got an environment "
            f"with {_codes_of(found)}; give LatentConditioner and discoverer one prior"
        )


def _codes_of(spec: TensorSpec) -> str:
    number = getattr(spec, "n", None)
    name = "codes" if number is None else f"{number} codes"
    return f"{name} of shape {tuple(spec.shape)} and {spec.dtype}"


def _refuse_truncation(chain: list[Transform]) -> None:
    for member in chain:
        limit = isinstance(member, TimeLimit) and member.mode == "truncates"
        counter = isinstance(member, StepCounter) and member.max_steps is not None
        if limit or counter:
            raise ConfigurationError(
                f"timing='final' with {type(member).__name__}, which truncates: {_FINAL_FIX}"
            )
