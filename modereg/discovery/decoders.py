"""From noises to features of played chunks, with gradients: the decoder itself, or a student."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modereg.discovery.chunk_features import ChunkFeatures
from modereg.discovery.outcome import MOST_OCTAVES
from modereg.layout import Layout
from modereg.networks import FourierFeatures
from modereg.policies import GenerativePolicy

__all__ = ["DecoderStudent", "ExactDecoder"]

OBSERVED = "observed"
"""Entry of the flat observation ``[n, d]`` in rows of decisions."""


class ExactDecoder:
    """The frozen policy: noises to the features of what is played of their chunks.

    Args:
        policy: the base policy.
        layout: which actions of a chunk are played.
        features: of played chunks.
        lift: from what the steering policy emits to noises ``[n, *noise_shape]``.
    """

    def __init__(
        self,
        policy: GenerativePolicy,
        layout: Layout,
        features: ChunkFeatures,
        lift: Callable[[Tensor], Tensor],
    ) -> None:
        self.policy, self.features, self.lift = policy, features, lift
        self.played = slice(layout.offset, layout.offset + layout.played)

    def __call__(self, rows: TensorDictBase, action: Tensor) -> Tensor:
        """Return the features ``[n, k]`` of actions at rows, which hold the observations."""
        weight = next((p for p in self.policy.parameters() if p.is_floating_point()), action)
        noise = self.lift(action).to(weight)
        chunk = self.policy.decode_from(rows.to(noise.device), noise)[:, self.played]
        observed = rows.get(OBSERVED)
        return self.features(observed, chunk.to(observed))

    def differentiable(self, rows: TensorDictBase, action: Tensor) -> bool:
        """Whether gradients reach the noise."""
        return self(rows[:1], action[:1].detach().requires_grad_()).requires_grad

    def seconds(self, rows: TensorDictBase, action: Tensor) -> float:
        """Return what decoding these rows takes."""
        start = time.perf_counter()
        with torch.no_grad():
            self(rows, action)
        return time.perf_counter() - start

    def gradient_seconds(self, rows: TensorDictBase, action: Tensor) -> float:
        """Return what one gradient with respect to the noises of these rows takes."""
        start = time.perf_counter()
        action = action.detach().requires_grad_()
        torch.autograd.grad(self(rows, action).sum(), action)
        return time.perf_counter() - start


class DecoderStudent(nn.Module):
    """A network that has learned what the features of a noise's chunk are.

    The decoder is frozen, so that all that was ever decoded stays true: data only accumulate, and
    decoding more of it costs no environment step.

    Args:
        observations: what is standardised by, ``[n, d]``.
        noise_size: length N of a flat noise.
        out_features: number of chunk features.
        width: of its three hidden layers.
        octaves: of the observation's features.
    """

    def __init__(
        self,
        observations: Tensor,
        noise_size: int,
        out_features: int,
        *,
        width: int = 256,
        octaves: int = 3,
    ) -> None:
        super().__init__()
        self.noise_size = noise_size
        size = observations.shape[-1]
        self.observation_features = FourierFeatures(size, octaves if size <= MOST_OCTAVES else 0)
        self.observation_features.fit(observations)
        widths = [self.observation_features.out_features + noise_size, width, width, width]
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(fan_in, fan_out), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, out_features))

    def forward(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Return features ``[n, k]`` of noises ``[n, ...]`` at observations ``[n, d]``."""
        inputs = [self.observation_features(observations), noise.flatten(1)]
        return self.layers(torch.cat(inputs, -1))

    def __call__(self, rows: Tensor | TensorDictBase, action: Tensor) -> Tensor:
        """Return features, of rows of decisions or of their observations."""
        observations = rows if isinstance(rows, Tensor) else rows.get(OBSERVED)
        return super().__call__(observations, action)

    def fit(
        self,
        observations: Tensor,
        noise: Tensor,
        features: Tensor,
        steps: int,
        *,
        learning_rate: float = 2e-3,
        batch_size: int = 256,
        held: float = 0.1,
    ) -> float:
        """Learn from pairs, and return the share of the features' variance explained, held out.

        Args:
            observations: ``[n, d]``.
            noise: ``[n, ...]``.
            features: ``[n, k]``, whitened: each counts alike.
            steps: gradient steps.
            learning_rate: peak of a one-cycle schedule.
            batch_size: rows of a step.
            held: share of the rows that is held out.
        """
        noise = noise.flatten(1)
        order = torch.randperm(len(noise), device=noise.device)
        apart, fitted = order.tensor_split([max(int(held * len(order)), 1)])
        self.requires_grad_(True)
        optimizer = torch.optim.AdamW(self.layers.parameters(), learning_rate, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, learning_rate, total_steps=max(steps, 1)
        )
        with torch.no_grad():
            seen = self.observation_features(observations)
        for _ in range(steps):
            rows = fitted[torch.randint(len(fitted), (batch_size,), device=noise.device)]
            predicted = self.layers(torch.cat([seen[rows], noise[rows]], -1))
            loss = nn.functional.smooth_l1_loss(predicted, features[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        self.requires_grad_(False)
        with torch.no_grad():
            apart = apart[:4096]
            error = (self(observations[apart], noise[apart]) - features[apart]).square().mean(0)
            return float((1 - error / features[apart].var(0).clamp_min(1e-6)).mean())
