"""Any function of noise and observations, or any module with a noise entry, as a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from modereg import keys
from modereg.devices import forked_generators
from modereg.errors import ConfigurationError
from modereg.policies.code_digest import code_digest
from modereg.policies.generative import GenerativePolicy, cast, uniform_dtype
from modereg.policies.probing import probe_policy
from modereg.suggestions import with_suggestion

__all__ = ["as_generative_policy"]


class _FunctionPolicy(GenerativePolicy):
    """What :func:`as_generative_policy` returns."""

    learns_shapes = True

    def __init__(
        self,
        function: Callable[..., Tensor],
        module: nn.Module | None,
        identity: tuple[str, str] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.__dict__["_function"] = function  # not a submodule: its weights are saved once
        self._identity = identity
        self._is_module = isinstance(function, nn.Module)
        self.module: nn.Module | None = module
        if module is None and isinstance(function, nn.Module):
            self.module = function

    def decode(self, noise: Tensor, *observations: Any) -> Tensor:
        # A module meets its weights with what it is given; a function may do as it likes before.
        dtype = uniform_dtype(self._function) if self._is_module else None
        chunk = self._function(*cast((noise, *observations), dtype))
        return chunk if dtype is None else chunk.to(noise.dtype)

    def configuration(self) -> dict[str, Any]:
        identity = self._identity
        code = code_digest(self._function, self.module) if identity is None else list(identity)
        return super().configuration() | {"function": code}


class _ModulePolicy(_FunctionPolicy):
    """A TensorDictModule that reads noise and observations and writes the chunk."""

    def __init__(self, module: TensorDictModuleBase, action_key: NestedKey, **kwargs: Any) -> None:
        super().__init__(module, None, **kwargs)
        self.action_key = action_key

    def decode(self, noise: Tensor, *observations: Any) -> Tensor:
        batch = noise.shape[: -len(self.noise_shape)]
        data = TensorDict({}, batch, device=noise.device)
        values = cast((*observations, noise), uniform_dtype(self._function))
        for key, value in zip(self.in_keys, values, strict=True):
            data.set(key, value)
        action = self._function(data).get(self.action_key)
        return action.reshape(*batch, *self.chunk_shape).to(noise.dtype)


def as_generative_policy(
    function: Callable[..., Any],
    *,
    in_keys: Sequence[NestedKey] | None = None,
    noise_shape: Sequence[int] | None = None,
    chunk_shape: Sequence[int] | None = None,
    module: nn.Module | None = None,
    example: TensorDictBase | None = None,
    name: str | None = None,
    version: str | None = None,
    action_key: NestedKey | None = None,
    observation_steps: int = 1,
    observation_shapes: Sequence[Sequence[int] | None] | None = None,
    autocast: torch.dtype | None = None,
    noise_key: NestedKey = keys.NOISE,
    chunk_key: NestedKey = keys.CHUNK,
) -> GenerativePolicy:
    """Make a :class:`GenerativePolicy` of any function, or module, of noise and observations.

    A ``TensorDictModule`` with a noise entry among its ``in_keys`` needs no more than an example:
    TorchRL's ``FlowMatchingPolicy`` and ``OneStepPolicy`` are such ones.

    Its fingerprint covers the function: its code, and what it closes over (see
    :func:`~modereg.policies.code_digest.code_digest`).

    Args:
        function: ``function(noise [*B, *noise_shape], *observations) -> chunk [*B, H, A]``;
            deterministic in the noise. Or a ``TensorDictModule``.
        in_keys: the observations that it takes, in its order; a TensorDictModule has its own.
        noise_shape: shape of one noise. None is the shape of the action that a TensorDictModule
            makes of the example, or ``chunk_shape``.
        chunk_shape: shape ``(H, A)`` of one chunk. None is that of a TensorDictModule's action for
            the example; an action ``[*B, A]`` is a chunk ``(1, A)``.
        module: what holds the function's parameters, if the function is no module itself, so that
            ``to``, ``parameters`` and fingerprints see them.
        example: observations to probe the function with now; without them it is probed when
            :class:`~modereg.transforms.NoiseAction` meets the environment.
        name: with ``version``, what stands for the function in fingerprints in place of its code:
            where something that it closes over has no value to digest, or where adapters shall
            outlive a change of the code or of Python's version.
        version: see ``name``; change it when what is decoded changes.
        action_key: of a TensorDictModule: the entry of its chunk; None is ``"action"``, or its only
            one.
        observation_steps: environment steps S that each observation covers; above 1 the function
            is given ``[*B, S, ...]``, the newest last.
        observation_shapes: shape of each observation at one step; None takes those that it is first
            probed with.
        autocast: see :class:`GenerativePolicy`.
        noise_key: entry of the noise.
        chunk_key: entry of the chunk.

    Raises:
        ConfigurationError: if an option is missing or can't be, or the probe fails (see
            :func:`~modereg.policies.probe_policy`).
        StochasticSamplerError: if the function is not deterministic in the noise.
        ShapeError: if it returns another shape than ``chunk_shape``.
    """
    if observation_steps < 1:
        raise ConfigurationError(
            f"expected observation_steps of at least 1, got {observation_steps}"
        )
    if (name is None) != (version is None):
        raise ConfigurationError(
            f"expected name and version together, got name={name!r} and version={version!r}"
        )
    options: dict[str, Any] = {
        "observation_shapes": observation_shapes,
        "identity": None if name is None else (name, version),
        "autocast": autocast,
        "noise_key": noise_key,
        "chunk_key": chunk_key,
    }
    shapes = (noise_shape, chunk_shape)
    if isinstance(function, TensorDictModuleBase):
        if in_keys is not None or module is not None:
            raise ConfigurationError(
                "expected no in_keys and no module beside a TensorDictModule, which has its own; "
                "rename its entries by its in_keys"
            )
        policy = _from_module(function, shapes, action_key, example, options)
    else:
        policy = _from_function(function, shapes, in_keys, module, options)
    policy.observation_steps = observation_steps
    if example is not None:
        probe_policy(policy, example)
    return policy


Shapes = tuple[Sequence[int] | None, Sequence[int] | None]


def _from_function(
    function: Callable[..., Tensor],
    shapes: Shapes,
    in_keys: Sequence[NestedKey] | None,
    module: nn.Module | None,
    options: dict[str, Any],
) -> _FunctionPolicy:
    noise_shape, chunk_shape = shapes
    if in_keys is None or chunk_shape is None:
        raise ConfigurationError(
            "expected in_keys and chunk_shape for a function, got "
            f"in_keys={in_keys} and chunk_shape={chunk_shape}; give them"
        )
    return _FunctionPolicy(
        function,
        module,
        observation_keys=in_keys,
        noise_shape=chunk_shape if noise_shape is None else noise_shape,
        chunk_shape=chunk_shape,
        **options,
    )


def _from_module(
    module: TensorDictModuleBase,
    shapes: Shapes,
    action_key: NestedKey | None,
    example: TensorDictBase | None,
    options: dict[str, Any],
) -> _ModulePolicy:
    noise_key = options["noise_key"]
    if noise_key not in module.in_keys:
        sentence = (
            f"expected a TensorDictModule that reads the noise {noise_key!r}, got one that reads "
            f"{list(module.in_keys)}; give its noise_key"
        )
        raise ConfigurationError(with_suggestion(sentence, noise_key, module.in_keys))
    action_key = _action_key(module, action_key)
    noise_shape, chunk_shape = shapes
    if chunk_shape is None:
        action = _action_shape(module, noise_key, noise_shape, action_key, example)
        chunk_shape = action if len(action) == 2 else (1, *action)
        noise_shape = action if noise_shape is None else noise_shape
    return _ModulePolicy(
        module,
        action_key,
        observation_keys=[key for key in module.in_keys if key != noise_key],
        noise_shape=chunk_shape if noise_shape is None else noise_shape,
        chunk_shape=chunk_shape,
        **options,
    )


def _action_key(module: TensorDictModuleBase, given: NestedKey | None) -> NestedKey:
    found = [key for key in module.out_keys if key == (given or keys.ACTION)]
    if given is None and not found and len(module.out_keys) == 1:
        found = list(module.out_keys)
    if not found:
        raise ConfigurationError(
            f"expected a TensorDictModule that writes {given or keys.ACTION!r}, got one that "
            f"writes {list(module.out_keys)}; name its action_key"
        )
    return found[0]


def _action_shape(
    module: TensorDictModuleBase,
    noise_key: NestedKey,
    noise_shape: Sequence[int] | None,
    action_key: NestedKey,
    example: TensorDictBase | None,
) -> torch.Size:
    """Return the shape of the action that a module makes of an example, without batch."""
    if example is None:
        raise ConfigurationError(
            "expected chunk_shape, or an example to find it with, got neither; give example=the "
            "observations of a reset"
        )
    data, batch = example.clone(), example.batch_size
    if noise_shape is not None:
        data.set(noise_key, torch.randn(*batch, *noise_shape, device=example.device))
    with torch.no_grad(), forked_generators(example.device):
        try:
            return module(data).get(action_key).shape[len(batch) :]
        except (KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise ConfigurationError(
                f"expected an example that {type(module).__name__} makes an action of, got one on "
                f"which it fails ({' '.join(str(error).split())}); give noise_shape if it does not "
                "draw missing noise itself, or the observations that it reads"
            ) from error
