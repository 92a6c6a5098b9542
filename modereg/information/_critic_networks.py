"""Critics: networks that score all pairs of two sets of samples."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modereg.errors import ConfigurationError
from modereg.networks import MLP

__all__ = ["JointCritic", "SeparableCritic", "make_critic"]


class SeparableCritic(nn.Module):
    r""":math:`f(x, y) = g(x) \cdot h(y) + a(x) + b(y)`: all pairs for the price of N."""

    def __init__(
        self,
        x_features: int,
        y_features: int,
        hidden: Sequence[int] = (128, 128),
        rank: int = 32,
    ) -> None:
        super().__init__()
        self.scale = rank**-0.5
        self.x_network = MLP(x_features, rank + 1, hidden, activation=nn.SiLU)
        self.y_network = MLP(y_features, rank + 1, hidden, activation=nn.SiLU)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the scores of all pairs, ``[N, M]``, of ``x [N, Dx]`` and ``y [M, Dy]``."""
        g, h = self.x_network(x), self.y_network(y)
        return self.scale * g[:, 1:] @ h[:, 1:].T + g[:, :1] + h[:, 0]


class JointCritic(nn.Module):
    """f(x, y) of both at once: more supple than :class:`SeparableCritic`, N times its cost.

    A multilayer perceptron on x and y concatenated, whose first layer is computed once for each x
    and each y, and added up for each pair.

    Raises:
        ConfigurationError: if there is no hidden layer.
    """

    def __init__(self, x_features: int, y_features: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        if not hidden:
            raise ConfigurationError("expected at least one hidden layer, got none")
        self.x_layer = nn.Linear(x_features, hidden[0])
        self.y_layer = nn.Linear(y_features, hidden[0], bias=False)
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip(hidden, [*hidden[1:], 1], strict=True):
            layers += [nn.SiLU(), nn.Linear(fan_in, fan_out)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the scores of all pairs, ``[N, M]``, of ``x [N, Dx]`` and ``y [M, Dy]``."""
        return self.layers(self.x_layer(x).unsqueeze(1) + self.y_layer(y)).squeeze(-1)


def make_critic(
    critic: str | nn.Module, x: Tensor, y: Tensor, hidden: Sequence[int], seed: int
) -> nn.Module:
    """Return a critic by its name, seeded, or a copy of the user's."""
    if isinstance(critic, nn.Module):
        return copy.deepcopy(critic)
    if critic not in ("separable", "joint"):
        raise ConfigurationError(
            f"expected a critic 'separable' or 'joint', or a module, got {critic!r}"
        )
    kind = SeparableCritic if critic == "separable" else JointCritic
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return kind(x.shape[-1], y.shape[-1], hidden)
