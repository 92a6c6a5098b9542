"""The prefix of an observation, computed once, and the denoising that attends to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modereg_integrations.flows import integrate
from modereg_integrations.transformers.library import library

__all__ = ["Prefix", "denoise", "encode_prefix"]


@dataclass(frozen=True)
class Prefix:
    """What denoising reads of observations, with the batch flattened: N rows.

    Attributes:
        batch: batch of the observations, with N elements.
        layers: keys and values of each layer, ``[N, heads, P, D]`` each.
        mask: which tokens of the prefix count, ``[N, P]`` int64.
        state: padded state in the units of the model, ``[N, max_state_dim]``.
    """

    batch: torch.Size
    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor
    state: Tensor

    def repeat(self, times: int) -> Prefix:
        """Repeat each row, for several noises of one observation."""
        if times == 1:
            return self
        layers = [tuple(part.repeat_interleave(times, 0) for part in pair) for pair in self.layers]
        return Prefix(
            batch=torch.Size((*self.batch, times)),
            layers=tuple((key, value) for key, value in layers),
            mask=self.mask.repeat_interleave(times, 0),
            state=self.state.repeat_interleave(times, 0),
        )


def encode_prefix(model: Any, batch: torch.Size, inputs: Mapping[str, Tensor]) -> Prefix:
    """Run the vision-language model once, as ``PI0ForConditionalGeneration.sample_actions`` does.

    Args:
        model: a ``PI0ForConditionalGeneration``.
        batch: batch of the observations, with N elements.
        inputs: what :meth:`PI0Policy.model_inputs` returns, N rows of each.
    """
    mask = inputs["attention_mask"]
    embeds = model.model.embed_prefix(
        inputs["input_ids"], inputs["pixel_values"], inputs["pixel_attention_mask"]
    )
    cache = model.model.vlm(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=mask.cumsum(-1) - 1,
        token_type_ids=torch.zeros_like(embeds[..., 0]),
        use_cache=True,
    ).past_key_values
    layers = tuple((layer.keys, layer.values) for layer in cache.layers)
    return Prefix(batch=batch, layers=layers, mask=mask, state=inputs["state"])


def denoise(model: Any, prefix: Prefix, noise: Tensor, num_steps: int) -> Tensor:
    """Integrate the model's velocity, which is computed in its type, from noise to actions.

    Args:
        model: a ``PI0ForConditionalGeneration``.
        prefix: of as many rows as the noise; it is left as it is.
        noise: ``[N, H, max_action_dim]``.
        num_steps: Euler steps.

    Returns:
        Padded actions in the units of the model, ``[N, H, max_action_dim]``.
    """
    cache = library().DynamicCache(prefix.layers)

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        found: Tensor = model(
            state=prefix.state,
            noise=x.to(prefix.state.dtype),
            timestep=time,
            attention_mask=prefix.mask,
            past_key_values=cache,
        ).logits
        cache.crop(prefix.mask.shape[1] - cache.get_seq_length())
        return found

    return integrate(velocity, noise, num_steps)
