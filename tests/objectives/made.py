"""What the tests of off-policy losses share: transitions, a linear critic, a decoder of chunks."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from modereg import keys
from modereg.decoding import ChunkDecoder
from modereg.layout import Layout
from modereg.objectives import ReplayLoss
from modereg.testing import CountingEnv, TinyPolicy
from modereg.wrapping import steer_env

__all__ = [
    "BOUND",
    "CODES",
    "GAMMA",
    "Linear",
    "check_climb",
    "chunk_critic",
    "decoder",
    "descend_in_turn",
    "policy",
    "transitions",
]

GAMMA, CODES, BOUND = 0.9, 2, 0.5


class Linear(nn.Module):
    """Q_i(s, z, x) = i-th weight times the sum of x, plus an offset: an ensemble of two."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([1.0, 3.0]))
        self.offset = nn.Parameter(torch.tensor([5.0, 0.0]))

    def forward(self, observation: Tensor, code: Tensor, taken: Tensor) -> Tensor:
        """Return [*B, 2]."""
        return taken.flatten(-2).sum(-1, keepdim=True) * self.slope + self.offset


def policy() -> TinyPolicy:
    return TinyPolicy(3)


def decoder() -> ChunkDecoder:
    """Of 3 actions out of chunks of 4, clipped at a half."""
    env = CountingEnv([3, 7], bound=BOUND)
    return ChunkDecoder(steer_env(env, policy(), CODES, Layout(12, execute=3, gamma=GAMMA)))


def chunk_critic() -> TensorDictModule:
    read = ["observation", keys.LATENT_FEATURES, keys.EXECUTED]
    return TensorDictModule(Linear(), read, ["state_action_value"])


def transitions(size: int = 6, observation: int = 3) -> TensorDict:
    """Return transitions of chunks; every third one ends its episode."""
    after = {
        "observation": torch.randn(size, observation),
        keys.LATENT_FEATURES: torch.eye(CODES)[torch.arange(size) % CODES],
        keys.REWARD: torch.randn(size, 1),
        keys.EXECUTED: torch.randn(size, 3, 2).clamp(-BOUND, BOUND),
        "terminated": torch.arange(size)[:, None] % 3 == 0,
        keys.STEPS: 1 + torch.arange(size)[:, None] % 4,
    }
    root = {name: after[name].clone() for name in ("observation", keys.LATENT_FEATURES)}
    return TensorDict({**root, "next": after}, batch_size=[size])


def check_climb(loss: ReplayLoss, data: TensorDictBase, *critics: nn.Module) -> None:
    """Compare the gradient of the noise's mean: of Q = twice the sum of w plus 2.5, their mean.

    It is 2 over the mean size of Q, and none of the critics has one.
    """
    torch.manual_seed(2)
    total = loss.actor_network.distribution(data).sample().flatten(-2).sum(-1)
    size = float((2.0 * total + 2.5).abs().mean())
    torch.manual_seed(2)
    loss.actor_loss(data)["loss_actor"].backward()
    grad = loss.actor_network.head.network.layers[-1].bias.grad
    torch.testing.assert_close(grad, torch.full_like(grad, -2.0 / size), rtol=1e-4, atol=0.0)
    for critic in critics:
        assert all(part.grad is None for part in critic.parameters())
        assert all(part.requires_grad for part in critic.parameters())


def descend_in_turn(
    loss: ReplayLoss,
    data: TensorDictBase,
    critic: torch.optim.Optimizer,
    actor: torch.optim.Optimizer,
) -> None:
    """Take a step of the critic, and one of the policy."""
    for optimizer, name, part in (
        (critic, "loss_qvalue", loss.critic_loss),
        (actor, "loss_actor", loss.actor_loss),
    ):
        optimizer.zero_grad()
        part(data)[name].backward()
        optimizer.step()
