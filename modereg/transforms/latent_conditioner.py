"""One latent code per episode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn
from torch.distributions import Distribution
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase, Transform

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.estimators import check_support
from modereg.priors import Prior, as_prior
from modereg.steering import SteeringPolicy
from modereg.transforms._attaching import check_attached
from modereg.transforms._common import copy_sharing, expand_mask, require

__all__ = ["LatentConditioner"]


class LatentConditioner(Transform):
    """Draws a code at reset and keeps it for exactly one episode.

    The terminal ``next`` carries the old code, the new root a fresh one, also where only some rows
    reset. Codes are drawn from torch's global generator, for the whole batch at once. Put it on the
    outermost environment (outside of ``ParallelEnv``), so that there is one generator. In a replay
    buffer it changes nothing: codes are data there.

    Writes, at the root and in ``next``:

    - ``latent_key``: ``[*B]`` int64 for discrete priors, ``[*B, dim]`` float for continuous ones.
    - ``features_key``: ``[*B, D]`` float: one-hot, or the code itself.

    The prior is none of its submodules, and its copies share it: an environment's ``state_dict``
    carries no parameter of a :class:`~modereg.priors.LearnedPrior`, and every copy in this process
    draws by its newest logits. Another process draws by those that it was started with.

    Args:
        prior: number of codes (uniform), a torch distribution or a prior.
        latent_key: entry of the code.
        features_key: entry of its features.

    Raises:
        ConfigurationError: if the prior is of a kind that is not known; on attaching, if the
            environment has these entries, or for transforms in an order that changes what they
            mean.
    """

    def __init__(
        self,
        prior: int | Distribution | Prior,
        latent_key: NestedKey = keys.LATENT,
        features_key: NestedKey = keys.LATENT_FEATURES,
    ) -> None:
        super().__init__()
        self.__dict__["_prior"] = as_prior(prior)
        self.latent_key, self.features_key = latent_key, features_key
        # Shared by clones: appending to a TransformedEnv may clone the transforms it has.
        self._forced: dict[str, Tensor | None] = {"latent": None}

    @property
    def prior(self) -> Prior:
        """p(z), shared with whoever learns it."""
        return self.__dict__["_prior"]

    def share(self, prior: Prior) -> None:
        """Draw from another prior of as many codes from the next reset on.

        Raises:
            ConfigurationError: if its codes are of another kind or number.
        """
        if prior.spec(torch.Size()) != self.prior.spec(torch.Size()):
            raise ConfigurationError(f"expected a prior like {self.prior!r}, got {prior!r}")
        self.__dict__["_prior"] = prior

    def __deepcopy__(self, memo: dict[int, Any]) -> LatentConditioner:
        """Copy all but the prior."""
        return copy_sharing(self, memo, self.prior)

    def set_container(self, container: Transform | EnvBase) -> None:
        """Attach the transform and check that it fits the environment."""
        super().set_container(container)
        written = {"latent_key": self.latent_key, "features_key": self.features_key}
        check_attached(self, written)

    @contextmanager
    def force(self, latent: int | Tensor) -> Iterator[None]:
        """Use this code, or these codes ``[*B]``, at every reset within the context.

        Episodes that run already keep their codes; the codes are fixed, not drawn, so torch's
        generator does not advance.

        Raises:
            ConfigurationError: if a code lies outside the prior's support.
        """
        codes = self._checked(torch.as_tensor(latent))
        previous, self._forced["latent"] = self._forced["latent"], codes
        try:
            yield
        finally:
            self._forced["latent"] = previous

    def steer(
        self,
        observation_keys: Sequence[NestedKey],
        observation_dim: int,
        noise_shape: Sequence[int],
        *,
        network: nn.Module | None = None,
        **options: Any,
    ) -> SteeringPolicy:
        """Make a :class:`~modereg.steering.SteeringPolicy` that reads this conditioner's codes.

        Args:
            observation_keys: entries that it reads besides the code.
            observation_dim: their total length once flattened.
            noise_shape: shape of one noise.
            network: replaces the default MLP, see :class:`~modereg.steering.SteeringPolicy`.
            options: further options of the steering policy.
        """
        return SteeringPolicy(
            observation_keys,
            observation_dim,
            self.prior.feature_dim,
            noise_shape,
            network=network,
            latent_key=self.features_key,
            **options,
        )

    def _checked(self, codes: Tensor) -> Tensor:
        check_support(self.prior, codes, self.latent_key)
        if self.prior.num_codes is not None:
            return codes
        codes = codes.to(torch.get_default_dtype())
        if not bool((self.prior.log_prob(codes) > -torch.inf).all()):
            raise ConfigurationError(
                f"expected codes from the support of {self.prior!r}, got some outside of it; "
                "sample codes from the prior"
            )
        return codes

    def _draw(self, tensordict: TensorDictBase) -> Tensor:
        forced = self._forced["latent"]
        batch, device = tensordict.batch_size, tensordict.device
        if forced is None:
            return self.prior.sample(batch, device)
        shape = self.prior.spec(batch).shape
        try:
            return forced.to(device or forced.device).expand(shape).clone()
        except RuntimeError as error:
            raise ConfigurationError(
                f"expected one forced code or codes of shape {tuple(shape)}, got "
                f"{tuple(forced.shape)}"
            ) from error

    def _write(self, tensordict: TensorDictBase, latent: Tensor) -> TensorDictBase:
        tensordict.set(self.latent_key, latent)
        return tensordict.set(self.features_key, self.prior.features(latent))

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return self._write(tensordict_reset, self._draw(tensordict_reset))

    def _reset_on_native_autoreset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        fresh, old = self._draw(tensordict), require(tensordict, self.latent_key, repr(self))
        reset = tensordict.get("_reset").view(tensordict.batch_size)
        return self._write(tensordict_reset, torch.where(expand_mask(reset, old), fresh, old))

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        latent = require(tensordict, self.latent_key, repr(self))
        features = tensordict.get(self.features_key, None)
        next_tensordict.set(self.latent_key, latent)
        if features is None:
            features = self.prior.features(self._checked(latent))
        return next_tensordict.set(self.features_key, features)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the tensordict as it is."""
        return tensordict

    def _add_specs(self, spec: Composite) -> Composite:
        batch, device = spec.shape, spec.device
        example = self.prior.features(self.prior.spec(torch.Size([1])).zero())
        spec[self.latent_key] = self.prior.spec(batch, device)
        spec[self.features_key] = Unbounded(
            shape=(*batch, self.prior.feature_dim), dtype=example.dtype, device=device
        )
        return spec

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Add the code and its features."""
        return self._add_specs(observation_spec)

    def transform_state_spec(self, state_spec: Composite) -> Composite:
        """Add the code and its features, so that steps and partial resets carry them."""
        return self._add_specs(state_spec)

    def __repr__(self) -> str:
        """Name the prior and the entry."""
        return f"LatentConditioner({self.prior!r}, latent_key={self.latent_key!r})"
