"""Put the pieces together: an environment and a pretrained policy in, a steered environment out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, Literal, NamedTuple, cast

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torch.distributions import Distribution
from torchrl.envs import Compose, EnvBase, Transform, TransformedEnv

from modereg import keys
from modereg.decoding import find_transform
from modereg.discovery import ClusterModeDiscoverer, ModeDiscoverer, VariationalModeDiscoverer
from modereg.discovery.stage1 import find_modes
from modereg.errors import ConfigurationError
from modereg.estimators import CategoricalMI, RewardEstimator
from modereg.layout import Layout
from modereg.networks import MLP
from modereg.policies import DenoisingChain, GenerativePolicy, freeze
from modereg.priors import CategoricalPrior, LearnedPrior, Prior, as_prior
from modereg.residual import ChunkResidual, StepResidual
from modereg.steering import SteeringPolicy
from modereg.suggestions import with_suggestion
from modereg.transforms import (
    ActionChunk,
    History,
    LatentConditioner,
    NoiseAction,
    ObservationStack,
    TimeLimit,
)
from modereg.transforms.noise_action import Decoder

__all__ = [
    "SteeredEnv",
    "Wrapped",
    "chunk_env",
    "make_steering",
    "observation_size",
    "steer_env",
    "wrap",
]


DEFAULT_CODES = 8
"""Codes of a discoverer that does not find their number."""


class Wrapped(NamedTuple):
    """What :func:`wrap` returns."""

    env: SteeredEnv
    steering: SteeringPolicy
    discoverer: ModeDiscoverer


class SteeredEnv(TransformedEnv):
    """An environment whose action is the noise of a frozen policy, with the layout it was made for.

    Attributes:
        layout: what rollouts, rewards, learners and saved adapters read.
    """

    layout: Layout

    def __init__(self, env: EnvBase, transform: Compose, layout: Layout) -> None:
        if type(env) is TransformedEnv:  # what TransformedEnv does itself, but not in subclasses
            own = Compose(env.transform.clone())
            own.reset_parent()
            env, transform = env.base_env, Compose(*own, *transform)
        super().__init__(env, transform)
        self.__dict__["layout"] = layout

    @property
    def residual(self) -> ChunkResidual | None:
        """What moves the chunks, such as stage 1's, to save with an adapter; None if nothing."""
        return cast("ChunkResidual | None", find_transform(self, NoiseAction).residual)

    def set_residual(self, residual: Callable[[TensorDictBase, Tensor], Tensor] | None) -> None:
        """Let this move the chunks from now on; None moves nothing."""
        find_transform(self, NoiseAction).set_residual(residual)

    @property
    def tuned(self) -> DenoisingChain | None:
        """What decodes in the base's place, trained, to save with an adapter; None if nothing."""
        return cast("DenoisingChain | None", find_transform(self, NoiseAction).decoder)

    def set_decoder(self, decoder: Decoder | None) -> None:
        """Let this decode in the base's place from now on; None lets the base."""
        find_transform(self, NoiseAction).set_decoder(decoder)

    @property
    def step_residual(self) -> StepResidual | None:
        """What moves each action when it is played, to save with an adapter; None if nothing."""
        owner = getattr(find_transform(self, ActionChunk).mover, "__self__", None)
        return owner if isinstance(owner, StepResidual) else None

    def set_step_residual(self, residual: StepResidual | None) -> None:
        """Let this move each action when it is played; None moves none."""
        mover = None if residual is None else residual.move
        find_transform(self, ActionChunk).set_mover(mover)


def steer_env(
    env: EnvBase,
    policy: GenerativePolicy,
    prior: Prior | int,
    layout: Layout,
    residual: ChunkResidual | None = None,
) -> SteeredEnv:
    """Return an environment whose action is the noise of a frozen generative policy.

    A composition of transforms, from the inside out: a :class:`~modereg.transforms.TimeLimit` where
    the time limit terminates and the environment does not say how much time has passed; an
    :class:`~modereg.transforms.ObservationStack` for a policy that reads several observations; and
    :class:`~modereg.transforms.ActionChunk`, :class:`~modereg.transforms.NoiseAction`,
    :class:`~modereg.transforms.History` and :class:`~modereg.transforms.LatentConditioner`. A
    random action reproduces the base policy.

    Args:
        env: environment, batch ``[B]``, with actions ``[B, A]``, where a step is an environment
            step.
        policy: the base policy; chunks ``[*B, H, A]``.
        prior: p(z), or the number of codes.
        layout: how chunks are played and what is seen; what it leaves open is the policy's.
        residual: moves the chunks, behind the same codes; None plays them as they are decoded.

    Raises:
        ConfigurationError: if layout and policy do not fit each other, or the environment.
    """
    layout = layout.for_policy(policy)
    noise = NoiseAction(policy, basis=layout.noise_basis, residual=residual)
    transforms = Compose(*_decisions(env, policy, layout, noise), LatentConditioner(prior))
    return SteeredEnv(env, transforms, layout)


def chunk_env(env: EnvBase, policy: GenerativePolicy, layout: Layout) -> TransformedEnv:
    """Return what :func:`steer_env` does without noise and codes: its action is a chunk.

    Args:
        env: as there.
        policy: the base policy, whose observations are stacked.
        layout: of a steered environment.
    """
    return TransformedEnv(env, Compose(*_decisions(env, policy, layout)))


def _decisions(
    env: EnvBase, policy: GenerativePolicy, layout: Layout, *decoded: Transform
) -> list[Transform]:
    """Return what makes decisions of an environment's steps; the history sees what is decoded."""
    transforms: list[Transform] = []
    if layout.time_limit == "terminates" and keys.ELAPSED not in _entries(env):
        transforms.append(TimeLimit(layout.max_steps, "terminates"))
    if policy.observation_steps > 1:
        stack = ObservationStack(policy.observation_keys, steps=policy.observation_steps)
        transforms.append(stack)
    chunk = ActionChunk(
        layout.played, offset=layout.offset, gamma=layout.gamma, horizon=layout.horizon
    )
    history = History(layout.features, length=layout.max_decisions, dims=layout.feature_dims)
    return [*transforms, chunk, *decoded, history]


def _entries(env: EnvBase) -> set[NestedKey]:
    return set(env.observation_spec.keys(True, True))


def observation_size(env: EnvBase, observation_keys: Sequence[NestedKey]) -> int:
    """Return the total length of some observations of a batched environment, flattened.

    Raises:
        ConfigurationError: if the environment lacks one.
    """
    total, batch = 0, len(env.batch_size)
    for key in observation_keys:
        if key not in env.observation_spec.keys(True, True):
            there = env.observation_spec.keys(True, True)
            sentence = (
                f"expected the observation {key!r}, got an environment with "
                f"{sorted(map(str, there))}"
            )
            raise ConfigurationError(with_suggestion(sentence, key, there))
        total += env.observation_spec[key].shape[batch:].numel()
    return total


def make_steering(
    env: SteeredEnv,
    policy: GenerativePolicy,
    prior: Prior | int,
    *,
    hidden: Sequence[int] = (128, 128),
    octaves: int = 4,
) -> SteeringPolicy:
    """Return a steering policy for a base policy: an MLP on sines of standardised observations.

    Args:
        env: steered environment, whose layout says what is read besides the code.
        policy: the base policy.
        prior: p(z), or the number of codes.
        hidden: widths of the MLP.
        octaves: frequencies of :class:`~modereg.networks.FourierFeatures`; fit them with
            ``steering.head.network.features.fit(observations)`` on episodes of the base.
    """
    layout, latent_dim = env.layout, as_prior(prior).feature_dim
    size = observation_size(env, layout.steered_by)
    basis = layout.noise_basis
    shape = policy.noise_shape if basis is None else torch.Size([basis.shape[1]])
    network = MLP(
        size + latent_dim,
        shape.numel(),
        hidden,
        octaves=octaves,
        plain_features=latent_dim,
        zero_init=True,
    )
    return SteeringPolicy(layout.steered_by, size, latent_dim, shape, network=network)


def wrap(
    env: EnvBase,
    policy: GenerativePolicy,
    layout: Layout,
    num_modes: int | Distribution | Prior | None = None,
    *,
    discoverer: Literal["cluster", "variational"] = "cluster",
    estimator: RewardEstimator | None = None,
    episodes: int = 2048,
    **options: Any,
) -> Wrapped:
    """Make a pretrained policy fine-tunable with its modes kept.

    Only composition: :func:`steer_env`, :func:`make_steering`, and a discoverer on the history.

    Args:
        env: environment, batch ``[B]``.
        policy: the base policy, which is frozen here, in eval mode and without gradients.
        layout: how chunks are played, how long episodes are and what is seen of them; what it
            leaves open is the policy's. ``Layout(max_steps=200)`` is the shortest.
        num_modes: number K of codes, or a prior p(z); an estimator brings its own. More codes than
            modes do no harm, fewer cannot cover them. None rolls the base out and takes as many as
            it shows behaviours (:func:`~modereg.discovery.stage1.find_modes`); 8 for
            ``variational``.
        discoverer: ``cluster`` or ``variational``.
        estimator: variational: what is learned and rewards; it brings the prior, and reads the
            ``history`` or other entries of the steered environment; None is a
            :class:`~modereg.estimators.CategoricalMI` of the history.
        episodes: how many are rolled out to find ``num_modes``.
        options: of the discoverer.

    Returns:
        The steered environment, the steering policy and the discoverer, which is fitted already
        where it found the number of codes.

    Raises:
        ConfigurationError: if an observation is missing or an option is unknown, if the clusters'
            prior is not uniform or is learned, or if the estimator reads what is not there.
    """
    given = num_modes if estimator is None else estimator.prior
    clusters, prior = discoverer == "cluster", as_prior(DEFAULT_CODES if given is None else given)
    _check_discoverer(discoverer, estimator, prior)
    freeze(policy)
    steered = steer_env(env, policy, prior, layout)
    observation_size(steered, steered.layout.steered_by)  # before anything is rolled out
    feature_dim = observation_size(steered, [keys.HISTORY])
    if clusters:
        options = {"history_length": steered.layout.max_decisions + 1} | options
        found = _make(ClusterModeDiscoverer, options, feature_dim, prior.num_codes or 0)
    if clusters and given is None:
        found = find_modes(steered, episodes, **options)
        prior = found.prior
        steered = steer_env(env, policy, prior, layout)
    elif not clusters:
        if estimator is None:
            estimator = CategoricalMI(feature_dim, prior)
        else:
            _check_entries(steered, estimator)
        found = _make(VariationalModeDiscoverer, options, estimator)
    return Wrapped(steered, make_steering(steered, policy, prior), found)


def _make(kind: type[ModeDiscoverer], options: dict[str, Any], *arguments: Any) -> ModeDiscoverer:
    unknown = sorted(set(options) - set(signature(kind).parameters))
    if unknown:
        known = sorted(signature(kind).parameters)
        sentence = f"{kind.__name__} has no option {', '.join(unknown)}; it has {', '.join(known)}"
        raise ConfigurationError(with_suggestion(sentence, unknown, known))
    return kind(*arguments, **options)


def _check_discoverer(discoverer: str, estimator: object, prior: Prior) -> None:
    if discoverer not in ("cluster", "variational"):
        raise ConfigurationError(
            f"expected discoverer of ['cluster', 'variational'], got {discoverer!r}"
        )
    if discoverer == "cluster" and estimator is not None:
        raise ConfigurationError(
            "expected no estimator for discoverer='cluster', which trains a classifier of its "
            f"clusters, got {type(estimator).__name__}; choose discoverer='variational'"
        )
    if discoverer == "cluster" and not _is_uniform(prior):
        raise ConfigurationError(
            f"expected the number of codes for discoverer='cluster', got {prior!r}; choose "
            "discoverer='variational' for another prior"
        )


def _is_uniform(prior: Prior) -> bool:
    """Return whether a prior is of equally likely codes, and stays so."""
    if not isinstance(prior, CategoricalPrior) or isinstance(prior, LearnedPrior):
        return False
    return bool((prior.probs == prior.probs[0]).all())


def _check_entries(env: EnvBase, estimator: RewardEstimator) -> None:
    """Check that the environment writes what an estimator reads, where it reads it."""
    root = env.fake_tensordict()
    source = root if estimator.source == "root" else root.get("next")
    present = {*source.keys(True, True)}
    missing = [key for key in [*estimator.in_keys, estimator.latent_key] if key not in present]
    if missing:
        sentence = (
            f"expected an estimator that reads entries of the steered environment, got "
            f"{type(estimator).__name__} that also reads {missing} of {estimator.source!r}, which "
            f"has {sorted(map(str, present))}; name other in_keys, or the latent_key "
            f"{keys.LATENT!r}"
        )
        raise ConfigurationError(with_suggestion(sentence, missing, present))
