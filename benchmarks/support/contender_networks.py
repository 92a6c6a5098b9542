"""Networks of the states and critics of the pairs that ``contenders.py`` trains."""

from __future__ import annotations

import math

import torch
from support.truths import Task
from torch import Tensor, nn
from torch.nn import functional as F

from modereg.networks import MLP

__all__ = ["CodeCritic", "EdgeCritic", "Waves", "features", "state_network", "tamed"]


class Waves(nn.Module):
    """A standardised scalar with its sines and cosines, in which steps are easy to draw."""

    def __init__(self, number: int = 32) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.arange(1, number + 1) * math.pi / 2)
        self.out_features = 2 * number + 1

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, 2 number + 1]``."""
        angles = x * self.frequencies
        return torch.cat([x, angles.sin(), angles.cos()], -1)


class CodeCritic(nn.Module):
    """f(z, s), a network of s with an output for each code; symbols s need a table alone."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.network = state_network(task, task.num_codes)

    def forward(self, codes: Tensor, states: Tensor) -> Tensor:
        """Return the scores of all pairs, ``[N, M]``, of one-hot codes and states."""
        return codes @ self.network(states).T


class EdgeCritic(nn.Module):
    """f(z, s), a network of the sum of an embedding of each scalar's waves."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.waves = Waves(16)
        inputs = self.waves.out_features
        self.codes, self.states = nn.Linear(inputs, width), nn.Linear(inputs, width)
        self.network = MLP(width, 1, (16,), activation=nn.ReLU)

    def forward(self, codes: Tensor, states: Tensor) -> Tensor:
        """Return the scores of all pairs, ``[N, M]``, of scalars."""
        first, second = self.codes(self.waves(codes)), self.states(self.waves(states))
        return self.network((first.unsqueeze(1) + second).relu()).squeeze(-1)


def state_network(task: Task, outputs: int) -> nn.Module:
    """Make a network of a task's states, see :func:`features`."""
    if task.is_symbolic:
        return nn.Linear(task.num_codes, outputs)
    if task.edges:
        waves = Waves()
        return nn.Sequential(waves, MLP(waves.out_features, outputs, (64, 64), activation=nn.ReLU))
    return MLP(task.dims[1], outputs, (64, 64), activation=nn.SiLU)


def tamed(values: Tensor) -> Tensor:
    """Take asinh of columns with far outliers, in units of their median size; keep the others.

    Injective, so the information stays; a critic's network could not resolve the bulk otherwise.
    """
    if not values.is_floating_point():
        return values
    centred = values - values.median(0).values
    unit = centred.abs().median(0).values
    return torch.where(centred.abs().amax(0) > 10 * unit, (centred / unit).asinh(), values)


def features(task: Task, state: Tensor) -> Tensor:
    """Return what a q reads: one-hot symbols, or columns of mean 0 and deviation 1, float32."""
    if task.is_symbolic:
        return F.one_hot(state, task.num_codes).float()
    if task.edges:
        # With constants that are the task's own, the same for samples and for all its states.
        width = task.num_codes + 1 if task.num_codes else 1
        return ((state - width / 2) / (width / math.sqrt(12))).float()
    state = tamed(state)
    return ((state - state.mean(0)) / state.std(0)).float()
