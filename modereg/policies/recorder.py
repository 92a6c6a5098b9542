"""What the draws of a chain were, kept while an environment plays them."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.policies.chain import ChainSample, DenoisingChain

__all__ = ["ChainRecorder"]


class ChainRecorder:
    """Decodes by draws of a chain in a steered environment, and keeps what it drew for the learner.

    ``env.set_decoder(recorder)``, roll out, then :meth:`write` into the batch.

    Args:
        chain: whose draws.
        chain_key: entry of the chains that it writes.
        log_prob_key: entry of their log-densities.
    """

    def __init__(
        self,
        chain: DenoisingChain,
        *,
        chain_key: NestedKey = keys.CHAIN,
        log_prob_key: NestedKey = keys.CHAIN_LOG_PROB,
    ) -> None:
        self.chain, self.chain_key, self.log_prob_key = chain, chain_key, log_prob_key
        self._drawn: list[ChainSample] = []

    def observation_entries(self, tensordict: TensorDictBase) -> list[NestedKey]:
        """Return what the chain reads of a tensordict, besides the noise."""
        return self.chain.observation_entries(tensordict)

    @property
    def steered_entries(self) -> list[NestedKey]:
        """What the chain reads of a steered environment."""
        return self.chain.steered_entries

    def decode_from(self, tensordict: TensorDictBase, noise: Tensor) -> Tensor:
        """Draw a chunk ``[*B, H, A]`` with the observations of a tensordict, and remember how."""
        values = self.chain.read_observations(tensordict, noise)
        self._drawn.append(self.chain.sample(noise, *values))
        return self._drawn[-1].chunk

    def write(self, batch: TensorDictBase) -> TensorDictBase:
        """Write chains and likelihoods into the batch ``[*B, T]`` of these decisions; forget them.

        Raises:
            ConfigurationError: if it has another number of decisions.
        """
        drawn, self._drawn = self._drawn, []
        if len(drawn) != batch.shape[-1]:
            raise ConfigurationError(
                f"expected a batch of the {len(drawn)} decisions that were drawn since the last, "
                f"got one of {batch.shape[-1]}; write each batch, before the next is collected"
            )
        time = batch.ndim - 1
        batch.set(self.chain_key, torch.stack([each.chain for each in drawn], time))
        return batch.set(self.log_prob_key, torch.stack([each.log_prob for each in drawn], time))
