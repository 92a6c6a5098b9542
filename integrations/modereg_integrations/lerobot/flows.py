"""LeRobot's flow-matching policies: one prefix of an observation for every step and noise."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from modereg.errors import ConfigurationError
from modereg_integrations.flows import integrate
from modereg_integrations.lerobot.library import library
from modereg_integrations.lerobot.samplers import Sampler

__all__ = ["PI0Sampler", "SmolVLASampler"]

_TOKENS = "observation.language.tokens"
_TOKEN_MASK = "observation.language.attention_mask"


class _FlowSampler(Sampler):
    """A vision-language model that encodes the observation, and an expert that attends to it."""

    takes_task = resizes = True
    history = 0

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        config = self.config
        if config.rtc_config is not None and config.rtc_config.enabled:
            raise ConfigurationError(
                "expected a policy without real-time chunking, whose chunks depend on earlier "
                "ones, got rtc_config.enabled=True; set rtc_config to None"
            )
        self.noise_shape = (config.chunk_size, config.max_action_dim)
        self.chunk_shape = (config.chunk_size, self.actions)

    @property
    def weight(self) -> Tensor:
        """A weight of the projection of noisy actions."""
        weight: Tensor = self.policy.model.action_in_proj.weight
        return weight

    @abstractmethod
    def encode(self, batch: dict[str, Any], repeats: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the velocity for ``repeats`` noises of each observation."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Number of Euler steps."""

    def sample(self, batch: dict[str, Any], noise: Tensor) -> Tensor:
        """Encode the observations once and integrate from every noise."""
        velocity = self.encode(batch, noise.shape[1])
        chunk = integrate(velocity, noise.flatten(0, 1), self.steps)
        return chunk[..., : self.actions].unflatten(0, noise.shape[:2])


class SmolVLASampler(_FlowSampler):
    """The Euler loop of ``SmolVLAPolicy``."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        if self.config.adapt_to_pi_aloha:
            raise ConfigurationError(
                "expected a SmolVLA policy with adapt_to_pi_aloha=False, got True, which changes "
                "states in place; convert them in the environment instead"
            )

    @property
    def steps(self) -> int:
        """Number of Euler steps."""
        return int(self.config.num_steps)

    def encode(self, batch: dict[str, Any], repeats: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Run the vision-language model as ``VLAFlowMatching.sample_actions`` does."""
        policy, model, common = self.policy, self.policy.model, library("policies.common.vla_utils")
        images, image_masks = policy.prepare_images(batch)
        embeds, valid, blocks = model.embed_prefix(
            images,
            image_masks,
            batch[_TOKENS],
            batch[_TOKEN_MASK],
            state=policy.prepare_state(batch),
        )
        _, cache = model.vlm_with_expert.forward(
            attention_mask=common.make_att_2d_masks(valid, blocks),
            position_ids=valid.cumsum(1) - 1,
            past_key_values=None,
            inputs_embeds=[embeds, None],
            use_cache=True,
        )
        valid = _repeat(cache, valid, repeats)
        return partial(model.denoise_step, valid, cache)


class PI0Sampler(_FlowSampler):
    """The Euler loop of ``PI0Policy``."""

    @property
    def steps(self) -> int:
        """Number of Euler steps."""
        return int(self.config.num_inference_steps)

    def encode(self, batch: dict[str, Any], repeats: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Run the vision-language model as ``PI0Pytorch.sample_actions`` does."""
        policy, model, common = self.policy, self.policy.model, library("policies.common.vla_utils")
        images, image_masks = policy._preprocess_images(batch)
        embeds, valid, blocks = model.embed_prefix(
            images, image_masks, batch[_TOKENS], batch[_TOKEN_MASK]
        )
        expert = model.paligemma_with_expert
        expert.paligemma.model.language_model.config._attn_implementation = "eager"
        mask = common.prepare_attention_masks_4d(common.make_att_2d_masks(valid, blocks))
        _, cache = expert.forward(
            attention_mask=mask,
            position_ids=valid.cumsum(1) - 1,
            past_key_values=None,
            inputs_embeds=[embeds, None],
            use_cache=True,
        )
        state = policy.prepare_state(batch).repeat_interleave(repeats, 0)
        valid = _repeat(cache, valid, repeats)
        return partial(model.denoise_step, state, valid, cache)


def _repeat(cache: Any, valid: Tensor, repeats: int) -> Tensor:
    """Repeat each row of a cache, in place, and of the mask of its tokens."""
    if repeats > 1:
        cache.batch_repeat_interleave(repeats)
    return valid.repeat_interleave(repeats, 0)
