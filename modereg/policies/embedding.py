"""Codes in a denoiser whose layers are not known: which can be told them is found, and tried."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from modereg.devices import module_device
from modereg.policies.chain import DenoisingChain
from modereg.policies.code_shifts import shiftable
from modereg.policies.generative import GenerativePolicy
from modereg.seeding import isolated_generators

__all__ = ["embed_codes"]


def embed_codes(
    base: GenerativePolicy, codes: int, observed: TensorDictBase, **options: Any
) -> DenoisingChain:
    """Return a chain whose trained copy is told codes, in all layers that can be.

    It is tried in a few passes with what it learns at random, since a denoiser may mix the rows of
    a batch so that one would be told the code of another.

    Args:
        base: the base policy, frozen, which stays as it is.
        codes: D, the length of the code's features.
        observed: an example of the base's observations, ``[*B]``.
        **options: of :class:`~modereg.policies.DenoisingChain`.

    Raises:
        ConfigurationError: if there is no such layer, or a row of a batch is told the code of
            another; or the policy has no such chain, or an option is out of range.
    """
    base.denoising(0.0)  # a policy without a chain is refused for that
    row = observed.select(*base.observation_entries(observed)).reshape(-1)[:1]
    device = module_device(base)
    row = row if device is None else row.to(device)
    with isolated_generators():
        noise = base.draw_noise_for(row.expand(5))
        layers = shiftable(base, lambda n: base.decode_from(row.expand(n), noise[:n]))
        chain = DenoisingChain(base, codes=codes, layers=layers, **options)

        def decode(features: Tensor) -> Tensor:
            rows = row.expand(len(features)).clone()
            rows.set(chain.observation_keys[-1], features.to(noise))
            return chain.decode_from(rows, noise[: len(features)])

        if chain.shifts is not None:
            chain.shifts.check(decode, codes)
    return chain
