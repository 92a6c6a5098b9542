"""The environment's action becomes the noise of a generative policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, BoundedContinuous, Composite, TensorSpec, Unbounded
from torchrl.envs import EnvBase, Transform

from modereg import keys
from modereg.devices import module_device
from modereg.errors import ConfigurationError, KeyMismatchError, ShapeError
from modereg.policies import GenerativePolicy, probe_policy
from modereg.policies.probing import check_chunk
from modereg.suggestions import with_shape_suggestion, with_suggestion
from modereg.transforms._attaching import check_attached
from modereg.transforms._common import require

__all__ = ["Decoder", "NoiseAction"]


class Decoder(Protocol):
    """What may decode in the place of the policy, such as a :class:`GenerativePolicy`."""

    def decode_from(self, tensordict: TensorDictBase, noise: Tensor) -> Tensor:
        """Return the chunk ``[*B, H, A]`` of noise, given what it reads."""

    def observation_entries(self, tensordict: TensorDictBase) -> list[NestedKey]:
        """Return what it reads of a tensordict, besides the noise."""

    @property
    def steered_entries(self) -> list[NestedKey]:
        """What it reads of a steered environment, besides the noise."""


_CHUNK, _NOISE = "_modereg_chunk", "_modereg_noise"
_PROBE_ROWS = 8


class _KeepsItsClass(type(Bounded)):  # type: ignore[misc]
    """Undoes that whatever is made of :class:`Bounded` becomes one of its own two classes."""

    def __call__(cls, *args: Any, **options: Any) -> Any:
        made = super().__call__(*args, **options)
        made.__class__ = cls
        return made


class _ClippedNormal(BoundedContinuous, metaclass=_KeepsItsClass):
    """Bounded noise, whose random values are N(0, I), clipped."""

    def rand(self, shape: torch.Size | None = None) -> Tensor:
        """Return random values ``[*shape, *self.shape]``."""
        size = (*(shape or ()), *self.shape)
        normal = torch.randn(size, dtype=self.dtype, device=self.device)
        return torch.clamp(normal, self.space.low, self.space.high)


class NoiseAction(Transform):
    r"""Decodes the action, which is noise, into an action chunk, without a graph.

    Put it outside of :class:`~modereg.transforms.ActionChunk`. The action spec becomes
    ``Unbounded [*B, *noise_shape]``, whose ``rand()`` is N(0, I): random actions are the base
    policy. With a ``basis`` P the action is ``u [*B, k]`` and

    .. math:: w = P u + (I - P P^T) \epsilon, \quad \epsilon \sim N(0, I),

    which is N(0, I) when u is: for policies whose noise has too many dimensions to steer.

    The root of a step belongs to the agent and keeps what it wrote; what was decoded stands in
    ``next`` (zeros at reset):

    - ``chunk_key``: the chunk of the step, ``[*B, H, A]``.
    - ``noise_key``: with a basis only, the noise w of the step, ``[*B, *noise_shape]``; without one
      the root's action is w itself.

    At its first reset it probes the policy with the observations (see
    :func:`~modereg.policies.probe_policy`) and refuses one that is not deterministic in the noise,
    whose rows depend on each other, or that changes itself. The policy is none of its submodules:
    neither ``parameters()`` nor ``state_dict()`` of the environment hold it.

    Args:
        policy: the base policy.
        basis: P, ``[N, k]`` with orthonormal columns, N the size of one noise.
        action_key: entry of the action.
        chunk_key: entry of the decoded chunk; None leaves it out.
        noise_key: entry of the noise that a basis makes; None leaves it out.
        dtype: type of the noise; None takes that of the environment's action.
        residual: moves the chunk afterwards, given the root's entries and the chunk ``[*B, H, A]``
            (:class:`~modereg.residual.ChunkResidual`); what is played is what ``chunk_key`` gets.
            None moves nothing. It is no submodule either.
        bound: b for losses whose policies need bounds, such as TD3's: the spec becomes
            ``Bounded(-b, b)``, whose ``rand()`` is N(0, I) clipped to it (at 3, one number of 370
            is). None leaves it unbounded.

    Raises:
        ConfigurationError: if the basis is not orthonormal, or the bound not positive; on
            attaching, if the environment has the entries that it writes, or for transforms in an
            order that changes what they mean.
        ShapeError: if the basis does not fit the noise; on attaching, if the environment does not
            take chunks of the policy's shape; at reset and in a step, if the policy decodes
            anything else.
        KeyMismatchError: on attaching, if the environment lacks an observation of the policy.
        StochasticSamplerError: at the first reset, if the policy is not deterministic; for the
            other faults :class:`~modereg.errors.ConfigurationError`.
    """

    def __init__(
        self,
        policy: GenerativePolicy,
        basis: Tensor | None = None,
        *,
        action_key: NestedKey = keys.ACTION,
        chunk_key: NestedKey | None = keys.CHUNK,
        noise_key: NestedKey | None = keys.NOISE,
        dtype: torch.dtype | None = None,
        residual: Callable[[TensorDictBase, Tensor], Tensor] | None = None,
        bound: float | None = None,
    ) -> None:
        super().__init__()
        if bound is not None and not 0 < bound < torch.inf:
            raise ConfigurationError(f"expected a bound above 0 and finite, got {bound}")
        self.bound = bound
        self.__dict__["_policy"] = policy
        self.__dict__["_residual"] = {"moves": residual}  # shared by clones
        self.__dict__["_decoder"] = {"decodes": None}  # likewise
        self.action_key, self.chunk_key = action_key, chunk_key
        self.noise_key = None if basis is None else noise_key
        self._dtype = dtype
        self._probed = {"done": False}  # shared by clones
        if basis is not None:
            _check_basis(basis, policy.noise_shape.numel())
        self.register_buffer("basis", basis, persistent=False)

    @property
    def policy(self) -> GenerativePolicy:
        """The base policy."""
        return self.__dict__["_policy"]

    @property
    def residual(self) -> Callable[[TensorDictBase, Tensor], Tensor] | None:
        """What moves the chunks, or None."""
        return self.__dict__["_residual"]["moves"]

    def set_residual(self, residual: Callable[[TensorDictBase, Tensor], Tensor] | None) -> None:
        """Let this move the chunks from now on, here and in clones; None moves nothing."""
        self.__dict__["_residual"]["moves"] = residual

    @property
    def decoder(self) -> Decoder | None:
        """What decodes in the place of the policy, or None."""
        return self.__dict__["_decoder"]["decodes"]

    @property
    def decodes(self) -> Decoder:
        """What decodes: the decoder, or the policy where there is none."""
        return self.decoder or self.policy

    def set_decoder(self, decoder: Decoder | None) -> None:
        """Let this decode from now on, where the policy lives, here and in clones; None undoes it.

        For weights that are trained (:class:`~modereg.policies.DenoisingChain`): shapes and
        observations, and what is probed, stay those of the policy. To discover the modes of what
        was trained, wrap that, not its base.
        """
        self.__dict__["_decoder"]["decodes"] = decoder

    @property
    def action_shape(self) -> torch.Size:
        """Shape of one action: ``noise_shape``, or ``[k]`` with a basis."""
        return self.policy.noise_shape if self.basis is None else self.basis.shape[1:]

    def set_container(self, container: Transform | EnvBase) -> None:
        """Attach the transform and check that policy and environment fit."""
        super().set_container(container)
        if self.parent is not None:
            self._inner_spec(self.parent.full_action_spec)
            self._check_observations(self.parent.full_observation_spec)
        check_attached(self, {"chunk_key": self.chunk_key, "noise_key": self.noise_key})

    def _inner_spec(self, spec: Composite) -> TensorSpec:
        action = spec.get(self.action_key, None)
        expected = (*spec.shape, *self.policy.chunk_shape)
        if action is None or tuple(action.shape) != expected:
            there = list(spec.keys(True, True))
            got = f"{there}" if action is None else f"{tuple(action.shape)}"
            sentence = (
                f"expected an environment whose action {self.action_key!r} is a chunk of shape "
                f"{expected}, as the policy decodes it, got {got}; put ActionChunk(execute, "
                f"offset, horizon={self.policy.chunk_shape[0]}) inside of NoiseAction"
            )
            raise ShapeError(with_suggestion(sentence, self.action_key, there))
        return action

    def _check_observations(self, spec: Composite) -> None:
        present = set(spec.keys(True, True))
        missing = [key for key in self.policy.observation_keys if key not in present]
        if missing:
            sentence = (
                f"the policy reads {missing}, which the environment lacks (it has "
                f"{sorted(map(str, present))}); rename the entries or give the policy other "
                "observation keys"
            )
            raise KeyMismatchError(with_suggestion(sentence, missing, present))

    def lift(self, action: Tensor) -> Tensor:
        """Return the noise ``[*B, *noise_shape]`` of an action, which differs only with a basis."""
        if self.basis is None:
            return action
        shape, basis = self.policy.noise_shape, self.basis.to(action)
        free = torch.randn(
            (*action.shape[:-1], shape.numel()), dtype=action.dtype, device=action.device
        )
        noise = free + (action - free @ basis) @ basis.mT
        return noise.unflatten(-1, tuple(shape))

    def decode(self, tensordict: TensorDictBase, noise: Tensor) -> Tensor:
        """Decode where the policy lives, and return the chunk where the noise is.

        Args:
            tensordict: ``[*B]``, with the policy's observations.
            noise: ``[*B, *noise_shape]``, as :meth:`lift` returns it.

        Returns:
            ``[*B, H, A]``, not yet moved by a residual.
        """
        device, decoder = module_device(self.policy), self.decodes
        if device is None or device == noise.device:
            return decoder.decode_from(tensordict, noise)
        read = tensordict.select(*decoder.observation_entries(tensordict)).to(device)
        return decoder.decode_from(read, noise.to(device)).to(noise.device)

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        parent = self.parent
        if parent is None:
            return tensordict
        action = require(tensordict, self.action_key, repr(self))
        expected = (*tensordict.batch_size, *self.action_shape)
        if tuple(action.shape) != expected:
            sentence = (
                f"expected noise of shape {expected} under {self.action_key!r}, got "
                f"{tuple(action.shape)}"
            )
            raise ShapeError(with_shape_suggestion(sentence, action.shape, expected))
        with torch.no_grad():
            noise = self.lift(action)
            chunk = self._decoded(tensordict, noise)
        chunk = chunk.to(parent.full_action_spec[self.action_key].dtype)
        if self.noise_key is not None:
            tensordict.set(_NOISE, noise)
        if self.chunk_key is not None:
            tensordict.set(_CHUNK, chunk.clone())  # the environment may change its own
        return tensordict.set(self.action_key, chunk)

    def _decoded(self, tensordict: TensorDictBase, noise: Tensor) -> Tensor:
        chunk = self.decode(tensordict, noise)
        check_chunk(self.policy, tensordict.batch_size, chunk)
        return chunk if self.residual is None else self.residual(tensordict, chunk)

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        for key, stash in ((self.chunk_key, _CHUNK), (self.noise_key, _NOISE)):
            if key is not None:
                next_tensordict.set(key, tensordict.get(stash))
        return next_tensordict

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        if not self._probed["done"]:
            self._probe(tensordict_reset)
        device = tensordict_reset.device
        for key, (shape, dtype) in self._entries(tensordict_reset.batch_size).items():
            tensordict_reset.set(key, torch.zeros(shape, dtype=dtype, device=device))
        return tensordict_reset

    def _probe(self, tensordict: TensorDictBase) -> None:
        """Check on a few rows that the policy can be steered."""
        rows = tensordict.select(*self.policy.observation_entries(tensordict))
        if rows.batch_dims:
            rows = rows.reshape(-1)[:_PROBE_ROWS]
        device = module_device(self.policy)
        dtype = self._dtype or self.parent.full_action_spec[self.action_key].dtype
        probe_policy(self.policy, rows if device is None else rows.to(device), dtype=dtype)
        self._probed["done"] = True

    def _entries(self, batch: torch.Size) -> dict[NestedKey, tuple[torch.Size, torch.dtype]]:
        """Return shape and type of what this transform writes."""
        dtype = self.parent.full_action_spec[self.action_key].dtype
        entries = {}
        if self.chunk_key is not None:
            entries[self.chunk_key] = (torch.Size((*batch, *self.policy.chunk_shape)), dtype)
        if self.noise_key is not None:
            shape = torch.Size((*batch, *self.policy.noise_shape))
            entries[self.noise_key] = (shape, self._dtype or dtype)
        return entries

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the tensordict as it is: in a replay buffer the action stays the noise."""
        return tensordict

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Add the chunk, and with a basis the noise."""
        device = observation_spec.device
        for key, (shape, dtype) in self._entries(observation_spec.shape).items():
            observation_spec[key] = Unbounded(shape, dtype=dtype, device=device)
        return observation_spec

    def transform_action_spec(self, action_spec: Composite) -> Composite:
        """Make the action noise, or its coordinates in the basis."""
        action = self._inner_spec(action_spec)
        shape = torch.Size((*action_spec.shape, *self.action_shape))
        place = {"dtype": self._dtype or action.dtype, "device": action.device}
        if self.bound is None:
            action_spec[self.action_key] = Unbounded(shape, **place)
        else:
            action_spec[self.action_key] = _ClippedNormal(-self.bound, self.bound, shape, **place)
        return action_spec

    def __repr__(self) -> str:
        """Name the policy and the shapes."""
        name, shape = type(self.policy).__name__, tuple(self.action_shape)
        return f"NoiseAction({name}, action={shape}, chunk={tuple(self.policy.chunk_shape)})"


def _check_basis(basis: Tensor, size: int) -> None:
    if basis.ndim != 2 or basis.shape[0] != size or not 1 <= basis.shape[1] <= size:
        raise ShapeError(
            f"expected a basis of shape ({size}, k) with k in [1, {size}], got {tuple(basis.shape)}"
        )
    gram = basis.mT @ basis
    identity = torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
    error = float((gram - identity).abs().max())
    if not error <= 1e-4:
        raise ConfigurationError(
            f"expected a basis with orthonormal columns, got P^T P that differs from the identity "
            f"by {error:.3g}; take the Q of torch.linalg.qr"
        )
