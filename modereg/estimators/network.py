"""Estimators with one network that reads the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.estimators.base import RewardEstimator, Source
from modereg.networks import MLP, InputNoise
from modereg.priors import Prior
from modereg.reading import evaluate

__all__ = ["NetworkEstimator", "NetworkOptions"]


HIDDEN = (128, 128)
"""Widths of the network that is made where none is given."""


class NetworkOptions(TypedDict, total=False):
    """What every :class:`NetworkEstimator` takes by keyword, and hands on to it."""

    hidden: Sequence[int] | None
    noise: float | None
    in_keys: Sequence[NestedKey] | None
    latent_key: NestedKey
    out_key: NestedKey


class NetworkEstimator(RewardEstimator):
    """An estimator whose features pass through one network, to a vector of known length.

    Args:
        network: a module from features to ``[*B, width]``, or a TensorDictModule that writes
            ``out_key``, or the total length of the features for an MLP with noise on its input. If
            it is (or wraps) an :class:`~modereg.networks.InputNoise`, the loss puts its noise on
            the input; everything else reads it clean.
        width: length of its output.
        prior: p(z).
        hidden: widths of the MLP that is made for a length; None takes (128, 128).
        noise: standard deviation of the noise on its input, in the features' units; None takes 0.2
            of their common scale, once :meth:`fit_features` has set that.
        in_keys: entries of the features, in the order in which a plain module takes them; the
            history by default. A TensorDictModule brings its own.
        latent_key: entry of the code.
        out_key: entry of the network's output.
        source: where a transition has the features.

    Raises:
        ConfigurationError: if a TensorDictModule does not write ``out_key``, or is given with
            ``in_keys`` beside its own, or ``in_keys`` is a string or empty, or ``hidden`` or
            ``noise`` is given beside a network that brings its own, or an
            :class:`~modereg.networks.InputNoise` is deep within the network, or the output has
            another length than ``width`` (at the first call, where the network does not declare its
            ``out_features``).
    """

    def __init__(
        self,
        network: nn.Module | int,
        width: int,
        prior: Prior,
        *,
        hidden: Sequence[int] | None = None,
        noise: float | None = None,
        in_keys: Sequence[NestedKey] | None = None,
        latent_key: NestedKey = keys.LATENT,
        out_key: NestedKey = keys.LOGITS,
        source: Source = "next",
    ) -> None:
        if isinstance(network, int):
            made = self._make_network(network, width, HIDDEN if hidden is None else hidden)
            network = InputNoise(made, noise)
        elif hidden is not None or noise is not None:
            raise ConfigurationError(
                f"expected hidden and noise only for the length of the features, got {hidden} and "
                f"{noise} beside a {type(network).__name__}; put them in that network"
            )
        module = _as_tensordict_module(network, in_keys, out_key)
        _check_noise(module)
        super().__init__(prior, module.in_keys, latent_key, source=source)
        self.network, self.out_key, self.width = module, out_key, width
        self._check_width(_declared_width(module))

    @classmethod
    def _make_network(cls, in_features: int, width: int, hidden: Sequence[int]) -> MLP:
        """Make the network of an estimator that is given the length of the features alone."""
        return MLP(in_features, width, hidden)

    def output(self, tensordict: TensorDictBase, *, noisy: bool = False) -> Tensor:
        """Return the network's output, ``[*B, width]``; the tensordict is left as it is.

        Raises:
            KeyMismatchError: if a feature is missing.
            ConfigurationError: if the output has another length than the prior asks for.
        """
        output = evaluate(self.network, tensordict, self.out_key, noisy=noisy, reader="q")
        self._check_width(output.shape[-1])
        return output

    def fit_features(self, features: Tensor) -> None:
        """Set the common scale of the features ``[N, F]``; see :meth:`InputNoise.fit`.

        Raises:
            ConfigurationError: if q is a network of the user's, which scales its input itself.
        """
        noisy = getattr(self.network, "module", None)
        if not isinstance(noisy, InputNoise):
            super().fit_features(features)
        else:
            noisy.fit(features)

    def options(self) -> dict[str, Any]:
        """Return the options of its own with which it was made, JSON-able, for checkpoints."""
        return {}

    def _check_width(self, width: int | None) -> None:
        if width is None or width == self.width:
            return
        wanted = f"outputs of length {self.width}"
        if self.prior.num_codes == self.width:
            wanted = f"logits of the prior's {self.width} codes"
        raise ConfigurationError(
            f"expected {wanted}, got {width} from q; give q that many "
            "outputs, or pass NetworkEstimator the width that it has"
        )


def _as_tensordict_module(
    network: nn.Module, in_keys: Sequence[NestedKey] | None, out_key: NestedKey
) -> TensorDictModuleBase:
    if not isinstance(network, TensorDictModuleBase):
        read = [keys.HISTORY] if in_keys is None else keys.key_list(in_keys)
        return TensorDictModule(network, read, [out_key])
    if in_keys is not None and list(in_keys) != list(network.in_keys):
        raise ConfigurationError(
            f"expected in_keys only for a plain module, got {list(in_keys)} for one that reads "
            f"{list(network.in_keys)}; leave them out"
        )
    if out_key not in network.out_keys:
        raise ConfigurationError(
            f"expected q to write {out_key!r}, got a module that writes {list(network.out_keys)}; "
            "pass the key of its output"
        )
    return network


def _check_noise(network: TensorDictModuleBase) -> None:
    inside = any(isinstance(part, InputNoise) for part in network.modules())
    if inside and not isinstance(getattr(network, "module", None), InputNoise):
        raise ConfigurationError(
            f"expected InputNoise around the whole network, got one inside of a "
            f"{type(network).__name__}, where its noise would never be drawn; wrap the whole "
            "network in it, or leave it out"
        )


def _declared_width(network: nn.Module) -> int | None:
    """Follow wrappers to the last layer and return its ``out_features``, if it has any."""
    if isinstance(network, TensorDictModule):
        network = network.module
    if isinstance(network, InputNoise):
        network = network.network
    if isinstance(network, nn.Sequential):
        network = network[-1]
    return getattr(network, "out_features", None)
