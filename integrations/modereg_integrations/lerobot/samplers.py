"""What differs between LeRobot's policies: their shapes, and how noise becomes actions.

LeRobot's own networks run, in the order in which its ``predict_action_chunk`` runs them, except
that what depends on the observation alone runs once for all noises of that observation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from modereg.errors import ConfigurationError, StochasticSamplerError

__all__ = ["DiffusionSampler", "Sampler"]


class Sampler(ABC):
    """The sampler of one kind of policy.

    Attributes:
        noise_shape: shape of one noise.
        chunk_shape: shape ``(H, A)`` of what ``predict_action_chunk`` returns.
        history: observation steps that the policy reads, stacked; 0 where it reads one, unstacked.
        takes_task: whether the policy is told its task in words.
        resizes: whether it resizes images itself.

    Raises:
        StochasticSamplerError: if its noise does not decide the chunk.
        ConfigurationError: if something other than noise and observation decides it.
    """

    takes_task: ClassVar[bool]
    resizes: ClassVar[bool]
    history: int
    noise_shape: tuple[int, ...]
    chunk_shape: tuple[int, int]

    def __init__(self, policy: Any) -> None:
        self.policy, self.config = policy, policy.config
        self.actions = int(self.config.action_feature.shape[0])

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """The first weight that the noise meets: its type and device are those of the noise."""

    @abstractmethod
    def sample(self, batch: dict[str, Any], noise: Tensor) -> Tensor:
        """Decode R noises for each of N observations, without a graph unless something needs one.

        Args:
            batch: what LeRobot's preprocessor returned, N rows.
            noise: ``[N, R, *noise_shape]``.

        Returns:
            Chunks in the units of the model, ``[N, R, H, A]``.
        """


class DiffusionSampler(Sampler):
    """The denoising loop of ``DiffusionPolicy``, under DDIM."""

    takes_task = resizes = False

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        config = self.config
        if config.noise_scheduler_type != "DDIM":
            raise StochasticSamplerError(
                f"expected a DiffusionPolicy with the scheduler 'DDIM', got "
                f"{config.noise_scheduler_type!r}, which draws random numbers at every step, so "
                "that its noise does not decide the chunk; the same weights serve both: set "
                '"noise_scheduler_type": "DDIM" and "num_inference_steps": 10 in its '
                "config.json, or load it with LeRobotPolicy.from_pretrained(folder, "
                'config={"noise_scheduler_type": "DDIM", "num_inference_steps": 10})'
            )
        self.history = config.n_obs_steps
        self.noise_shape = (config.horizon, self.actions)
        self.chunk_shape = (config.n_action_steps, self.actions)

    @property
    def weight(self) -> Tensor:
        """A weight of the U-Net."""
        weight: Tensor = next(self.policy.diffusion.unet.parameters())
        return weight

    def sample(self, batch: dict[str, Any], noise: Tensor) -> Tensor:
        """Denoise, and cut the actions of the chunk out of the horizon.

        Raises:
            ConfigurationError: if the weights are not float32, which LeRobot's U-Net cannot run.
        """
        if self.weight.dtype != torch.float32:
            raise ConfigurationError(
                "expected a DiffusionPolicy with float32 weights, since LeRobot's U-Net embeds "
                f"time in float32, got {self.weight.dtype}; call policy.float()"
            )
        model, first = self.policy.diffusion, self.history - 1
        if self.config.image_features:
            cameras = [batch[name] for name in self.config.image_features]
            batch = batch | {"observation.images": torch.stack(cameras, -4)}
        condition = model._prepare_global_conditioning(batch)
        condition = condition.repeat_interleave(noise.shape[1], 0)
        rows = noise.flatten(0, 1)
        actions = model.conditional_sample(len(rows), global_cond=condition, noise=rows)
        chunk: Tensor = actions[:, first : first + self.chunk_shape[0]]
        return chunk.unflatten(0, noise.shape[:2])
