r"""The steering policy :math:`\psi(w \mid s, z)`: a conditional Gaussian over the base's noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    skip_existing,
)
from tensordict.nn.probabilistic import interaction_type
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from modereg import functional, keys
from modereg.errors import ConfigurationError, ShapeError
from modereg.networks import MLP
from modereg.reading import require

__all__ = ["NoiseNormal", "SteeringHead", "SteeringPolicy"]

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class NoiseNormal(Independent):
    """A diagonal Gaussian over noises: ``Independent(Normal(loc, scale), len(noise_shape))``.

    Args:
        loc: mean, ``[*B, *noise_shape]``.
        scale: standard deviation, ``[*B, *noise_shape]``.
        event_dims: number of dimensions of one noise.
    """

    def __init__(self, loc: Tensor, scale: Tensor, event_dims: int = 1) -> None:
        super().__init__(Normal(loc, scale, validate_args=False), event_dims, validate_args=False)

    @property
    def deterministic_sample(self) -> Tensor:
        """The mean noise."""
        return self.base_dist.loc

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> NoiseNormal:
        """Expand the batch."""
        shape = (*batch_shape, *self.event_shape)
        base = self.base_dist
        return NoiseNormal(base.loc.expand(shape), base.scale.expand(shape), len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density in nats, ``[*B]``."""
        loc, scale, dims = self.base_dist.loc, self.base_dist.scale, len(self.event_shape)
        terms = 0.5 * ((value - loc) / scale).square() + scale.log()
        return -terms.flatten(-dims).sum(-1) - _LOG_SQRT_2PI * self.event_shape.numel()

    def kl_to_standard_normal(self) -> Tensor:
        """KL(psi || N(0, I)) in nats, ``[*B]``: what leaving the base policy costs."""
        loc, scale = self.base_dist.loc, self.base_dist.scale
        return functional.kl_standard_normal(loc, scale, len(self.event_shape))

    def kl_to(self, other: NoiseNormal) -> Tensor:
        """KL(self || other) in nats, ``[*B]``: what leaving another policy costs."""
        scale = other.base_dist.scale
        loc = (self.base_dist.loc - other.base_dist.loc) / scale
        return functional.kl_standard_normal(
            loc, self.base_dist.scale / scale, len(self.event_shape)
        )


class SteeringHead(nn.Module):
    """Mean and standard deviation of the noise from features and a code.

    The mean is ``b tanh(m / b)`` of a network that starts at zero; the log standard deviation is a
    linear function of the code's features alone, squashed smoothly into ``log_std_range``, which
    must contain 0: at its initial parameters it is exactly 0, with gradient 1.

    Args:
        network: maps the concatenated inputs ``[*B, *]`` to ``[*B, prod(noise_shape)]``.
        latent_dim: length of the code's features, which come last among the inputs.
        noise_shape: shape of one noise.
        mean_bound: b.
        log_std_range: bounds of the log standard deviation.
    """

    steered: Tensor

    def __init__(
        self,
        network: nn.Module,
        latent_dim: int,
        noise_shape: Sequence[int],
        mean_bound: float = 2.0,
        log_std_range: tuple[float, float] = (-3.0, 0.3),
    ) -> None:
        super().__init__()
        if not 0.0 < mean_bound < math.inf:
            raise ConfigurationError(f"expected a positive, finite mean_bound, got {mean_bound}")
        if not log_std_range[0] < 0.0 < log_std_range[1]:
            raise ConfigurationError(
                f"expected a log_std_range around 0, where the base policy is, got {log_std_range}"
            )
        self.network, self.noise_shape = network, torch.Size(noise_shape)
        self.mean_bound, self.log_std_range = mean_bound, log_std_range
        self._all_steered = True  # known without a look at the buffer's device
        self.register_buffer("steered", torch.ones(latent_dim))
        self.log_std = nn.Linear(latent_dim, self.noise_shape.numel())
        nn.init.zeros_(self.log_std.weight)
        nn.init.zeros_(self.log_std.bias)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return loc and scale, each ``[*B, *noise_shape]``; the last input is the code's."""
        mean = self.network(*inputs)
        mean = self.mean_bound * torch.tanh(mean / self.mean_bound)
        if not self._all_steered:
            mean = mean * (inputs[-1] @ self.steered).unsqueeze(-1)
        log_std = self._squash(self.log_std(inputs[-1]))
        shape = (*mean.shape[:-1], *self.noise_shape)
        return mean.reshape(shape), log_std.exp().reshape(shape)

    @torch.no_grad()
    def steer_only(self, codes: Tensor, std: float) -> None:
        """Steer some of the one-hot codes; the others play N(0, I), the base, exactly.

        Args:
            codes: which are steered, ``[K]`` bool.
            std: their standard deviation in every dimension.
        """
        self.set_std(std, codes)
        self.steered.copy_(codes)
        self._all_steered = bool(codes.all())

    @torch.no_grad()
    def steer_all(self) -> None:
        """Hold no code at N(0, I) any more; standard deviations stay."""
        self.steered.fill_(1.0)
        self._all_steered = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        ones = torch.ones_like(self.steered)  # adapters of before had all steered
        steered = state_dict.setdefault(f"{prefix}steered", ones)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._all_steered = bool((steered == 1).all())

    def _squash(self, raw: Tensor) -> Tensor:
        low, high = self.log_std_range
        return torch.where(raw > 0, high * torch.tanh(raw / high), low * torch.tanh(raw / low))

    @torch.no_grad()
    def set_std(self, std: float, codes: Tensor | None = None) -> None:
        """Give codes this standard deviation in every dimension.

        Args:
            std: the standard deviation.
            codes: which of the one-hot codes get it, ``[K]`` bool; the others get 1, exactly. None
                gives it to every code, of whatever kind.

        Raises:
            ConfigurationError: if it lies outside the range of the head.
        """
        low, high = self.log_std_range
        if not math.exp(low) < std < math.exp(high):
            raise ConfigurationError(
                f"expected a standard deviation within ({math.exp(low):.3g}, {math.exp(high):.3g}),"
                f" got {std}; widen log_std_range or choose another"
            )
        log_std, bound = math.log(std), high if std > 1.0 else low
        self.log_std.weight.zero_()
        self.log_std.bias.fill_(bound * math.atanh(log_std / bound) if log_std else 0.0)
        if codes is not None:
            free = (~codes).to(self.log_std.weight)  # their weight undoes the bias
            self.log_std.weight.copy_(-self.log_std.bias.unsqueeze(-1) * free)


class SteeringPolicy(ProbabilisticTensorDictSequential):
    r"""A conditional Gaussian over the noise, :math:`\psi(w \mid s, z)`, that starts at N(0, I).

    Before any update the steered policy *is* the base policy. It reads the observations and the
    code's features and writes ``loc``, ``scale``, the noise under ``action_key`` and its
    log-probability: what TorchRL's losses for continuous actions expect.

    Args:
        observation_keys: entries that it reads besides the code, each ``[*B, ...]`` float.
        observation_dim: their total length once flattened.
        latent_dim: length of the code's features.
        noise_shape: shape of one noise.
        network: replaces the MLP: called with the observations and the code's features, returns
            ``[*B, prod(noise_shape)]``. Its last layer must give zeros at the start; a
            :class:`~modereg.networks.MLP` with ``zero_init=True`` does.
        hidden: widths of the default MLP.
        latent_key: entry of the code's features.
        action_key: entry of the noise that it writes.
        mean_bound: bound of the mean, see :class:`SteeringHead`.
        log_std_range: bounds of the log standard deviation.

    Raises:
        ShapeError: if a size is not positive.
    """

    def __init__(
        self,
        observation_keys: Sequence[NestedKey],
        observation_dim: int,
        latent_dim: int,
        noise_shape: Sequence[int],
        *,
        network: nn.Module | None = None,
        hidden: Sequence[int] = (128, 128),
        latent_key: NestedKey = keys.LATENT_FEATURES,
        action_key: NestedKey = keys.ACTION,
        mean_bound: float = 2.0,
        log_std_range: tuple[float, float] = (-3.0, 0.3),
    ) -> None:
        if min(observation_dim, latent_dim, *noise_shape) < 1:
            raise ShapeError(
                f"expected positive sizes, got observation_dim {observation_dim}, latent_dim "
                f"{latent_dim}, noise_shape {tuple(noise_shape)}"
            )
        noise_shape = torch.Size(noise_shape)
        if network is None:
            size = observation_dim + latent_dim
            network = MLP(size, noise_shape.numel(), hidden, zero_init=True)
        head = SteeringHead(network, latent_dim, noise_shape, mean_bound, log_std_range)
        parent = action_key[:-1] if isinstance(action_key, tuple) else ()
        params = {name: (*parent, name) if parent else name for name in ("loc", "scale")}
        super().__init__(
            TensorDictModule(head, [*observation_keys, latent_key], list(params.values())),
            ProbabilisticTensorDictModule(
                in_keys=params,
                out_keys=[action_key],
                distribution_class=NoiseNormal,
                distribution_kwargs={"event_dims": len(noise_shape)},
                return_log_prob=True,
                default_interaction_type=InteractionType.RANDOM,
            ),
        )
        self.noise_shape, self.action_key = noise_shape, action_key
        self.observation_keys, self.latent_key = list(observation_keys), latent_key
        self._written = [*params.values(), action_key, self.log_prob_keys[0]]

    @property
    def head(self) -> SteeringHead:
        """The module that gives mean and standard deviation."""
        return self.module[0].module

    def set_std(self, std: float) -> None:
        """Give every code and dimension this standard deviation."""
        self.head.set_std(std)

    def fit_inputs(self, rows: TensorDictBase) -> None:
        """Standardise what its MLP reads besides the code by rows ``[n]``; other networks may not.

        Raises:
            KeyMismatchError: if an observation is missing.
            NonFiniteError: if one is not finite.
        """
        network = self.head.network
        if isinstance(network, MLP):
            read = [require(rows, key, "the steering policy") for key in self.observation_keys]
            network.features.fit(torch.cat([value.flatten(1) for value in read], -1))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Write ``loc``, ``scale``, the noise and its log-probability into a tensordict.

        It does what the sequence of its two modules does, which also serves every call of another
        kind (tensors as arguments, an output tensordict, a mode that is asked for), at less cost.

        Raises:
            KeyMismatchError: if an observation or the code's features are missing.
        """
        plain = len(args) == 1 and not kwargs and isinstance(args[0], TensorDictBase)
        usual = interaction_type() in (None, InteractionType.RANDOM, InteractionType.DETERMINISTIC)
        if not plain or not usual or skip_existing() or self._select_before_return:
            return super().forward(*args, **kwargs)
        dist = self.distribution(args[0])
        mean = interaction_type() is InteractionType.DETERMINISTIC
        noise = dist.deterministic_sample if mean else dist.rsample()
        values = (dist.base_dist.loc, dist.base_dist.scale, noise, dist.log_prob(noise))
        for key, value in zip(self._written, values, strict=True):
            args[0].set(key, value)
        return args[0]

    def distribution(self, tensordict: TensorDictBase) -> NoiseNormal:
        """Return psi(. | s, z) for the entries of a tensordict, which is left as it is.

        Raises:
            KeyMismatchError: if an observation or the code's features are missing.
        """
        reader = "the steering policy"
        inputs = [require(tensordict, key, reader) for key in self.module[0].in_keys]
        loc, scale = self.head(*inputs)
        return NoiseNormal(loc, scale, len(self.noise_shape))
