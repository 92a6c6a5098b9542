"""Put the pieces together: an environment and a pretrained policy in, a steered environment out."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any, Literal, NamedTuple

from tensordict import NestedKey
from torch.distributions import Distribution
from torchrl.envs import Compose, EnvBase, TransformedEnv

from modereg import keys
from modereg.discovery import ClusterModeDiscoverer, ModeDiscoverer, VariationalModeDiscoverer
from modereg.errors import ConfigurationError
from modereg.estimators import CategoricalMI, RewardEstimator
from modereg.networks import MLP
from modereg.policies import GenerativePolicy
from modereg.priors import CategoricalPrior, LearnedPrior, Prior, as_prior
from modereg.steering import SteeringPolicy
from modereg.suggestions import with_suggestion
from modereg.transforms import (
    ActionChunk,
    History,
    LatentConditioner,
    NoiseAction,
    ObservationStack,
)

__all__ = ["Wrapped", "make_steering", "observation_size", "stack_env", "steer_env", "wrap"]


class Wrapped(NamedTuple):
    """What :func:`wrap` returns."""

    env: TransformedEnv
    steering: SteeringPolicy
    discoverer: ModeDiscoverer


def steer_env(
    env: EnvBase,
    policy: GenerativePolicy,
    prior: Prior | int,
    *,
    max_decisions: int,
    execute: int,
    offset: int = 0,
    gamma: float = 1.0,
    feature_keys: Sequence[NestedKey] = (keys.OBSERVATION,),
    feature_dims: Sequence[int] | None = None,
) -> TransformedEnv:
    """Return an environment whose action is the noise of a frozen generative policy.

    A composition of transforms, from the inside out: :class:`~modereg.transforms.ActionChunk`,
    :class:`~modereg.transforms.NoiseAction`, :class:`~modereg.transforms.History`,
    :class:`~modereg.transforms.LatentConditioner`, and inside of them an
    :class:`~modereg.transforms.ObservationStack` for a policy that reads several observations. A
    random action reproduces the base policy.

    Args:
        env: environment, batch ``[B]``, with actions ``[B, A]``.
        policy: the base policy; chunks ``[*B, H, A]``.
        prior: p(z), or the number of codes.
        max_decisions: decisions of the longest episode, the length of the history.
        execute: actions of a chunk that are played, open loop.
        offset: first played action of a chunk.
        gamma: discount an environment step, with which rewards within a chunk are summed.
        feature_keys: entries whose history the discoverer sees, in common physical units.
        feature_dims: dimensions of them to keep; None keeps all.
    """
    transforms = [
        ActionChunk(execute, offset=offset, gamma=gamma, horizon=policy.chunk_shape[0]),
        NoiseAction(policy),
        History(list(feature_keys), length=max_decisions, dims=feature_dims),
        LatentConditioner(prior),
    ]
    return TransformedEnv(stack_env(env, policy), Compose(*transforms), auto_unwrap=True)


def stack_env(env: EnvBase, policy: GenerativePolicy) -> EnvBase:
    """Return the environment with the latest observations side by side, if the policy reads any.

    Args:
        env: environment, batch ``[B]``, where a step is an environment step.
        policy: the base policy; with one observation step the environment is returned as it is.
    """
    if policy.observation_steps == 1:
        return env
    stack = ObservationStack(policy.observation_keys, steps=policy.observation_steps)
    return TransformedEnv(env, stack, auto_unwrap=True)


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
    env: EnvBase,
    policy: GenerativePolicy,
    prior: Prior | int,
    observation_keys: Sequence[NestedKey],
    *,
    hidden: Sequence[int] = (128, 128),
    octaves: int = 4,
) -> SteeringPolicy:
    """Return a steering policy for a base policy: an MLP on sines of standardised observations.

    Args:
        env: environment that has the observations.
        policy: the base policy.
        prior: p(z), or the number of codes.
        observation_keys: what it reads besides the code.
        hidden: widths of the MLP.
        octaves: frequencies of :class:`~modereg.networks.FourierFeatures`; fit them with
            ``steering.head.network.features.fit(observations)`` on episodes of the base.
    """
    size, latent_dim = observation_size(env, observation_keys), as_prior(prior).feature_dim
    network = MLP(
        size + latent_dim,
        policy.noise_shape.numel(),
        hidden,
        octaves=octaves,
        plain_features=latent_dim,
        zero_init=True,
    )
    return SteeringPolicy(observation_keys, size, latent_dim, policy.noise_shape, network=network)


def wrap(
    env: EnvBase,
    policy: GenerativePolicy,
    num_modes: int | Distribution | Prior = 8,
    *,
    max_decisions: int,
    execute: int | None = None,
    offset: int = 0,
    gamma: float = 0.999,
    observation_keys: Sequence[NestedKey] | None = None,
    feature_keys: Sequence[NestedKey] | None = None,
    feature_dims: Sequence[int] | None = None,
    discoverer: Literal["cluster", "variational"] = "cluster",
    estimator: RewardEstimator | None = None,
    **options: Any,
) -> Wrapped:
    """Make a pretrained policy fine-tunable with its modes kept.

    Only composition: :func:`steer_env`, :func:`make_steering`, and a discoverer on the history.

    Args:
        env: environment, batch ``[B]``.
        policy: the base policy, which is frozen here: its parameters stop requiring gradients.
        num_modes: number K of codes, or a prior p(z); an estimator brings its own. More codes than
            modes do no harm, fewer cannot cover them.
        max_decisions: decisions of the longest episode.
        execute: actions of a chunk that are played; None plays all from ``offset`` on.
        offset: first played action of a chunk.
        gamma: discount an environment step.
        observation_keys: what the steering policy reads; None takes the base policy's.
        feature_keys: what the discoverer sees the history of; None takes the base policy's.
        feature_dims: dimensions of it to keep.
        discoverer: ``cluster`` or ``variational``.
        estimator: variational: what is learned and rewards; it brings the prior, and reads the
            ``history`` or other entries of the steered environment; None is a
            :class:`~modereg.estimators.CategoricalMI` of the history.
        options: of the discoverer.

    Returns:
        The steered environment, the steering policy and the discoverer.

    Raises:
        ConfigurationError: if an observation is missing or an option is unknown, if the clusters'
            prior is not uniform or is learned, or if the estimator reads what is not there.
    """
    prior = as_prior(num_modes if estimator is None else estimator.prior)
    _check_discoverer(discoverer, estimator, prior)
    policy.requires_grad_(False)
    observation_keys = list(observation_keys or policy.observation_keys)
    steered = steer_env(
        env,
        policy,
        prior,
        max_decisions=max_decisions,
        execute=policy.chunk_shape[0] - offset if execute is None else execute,
        offset=offset,
        gamma=gamma,
        feature_keys=list(feature_keys or policy.observation_keys),
        feature_dims=feature_dims,
    )
    feature_dim = observation_size(steered, [keys.HISTORY])
    if discoverer == "cluster":
        options = {"history_length": max_decisions + 1} | options
        found = _make(ClusterModeDiscoverer, options, feature_dim, prior.num_codes or 0)
    else:
        if estimator is None:
            estimator = CategoricalMI(feature_dim, prior)
        else:
            _check_entries(steered, estimator)
        found = _make(VariationalModeDiscoverer, options, estimator)
    return Wrapped(steered, make_steering(steered, policy, prior, observation_keys), found)


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
