"""Every loss of TorchRL for continuous actions takes the noise of a policy as its action."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from tensordict.nn import InteractionType, TensorDictModule
from torch import Tensor, nn
from torchrl.data import Bounded
from torchrl.envs import Compose, TransformedEnv
from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import (
    A2CLoss,
    ClipPPOLoss,
    CrossQLoss,
    DDPGLoss,
    IQLLoss,
    LossModule,
    REDQLoss,
    SACLoss,
    SoftUpdate,
    TD3Loss,
)

from modereg import keys
from modereg.layout import Layout
from modereg.learners.base import advantage_estimator
from modereg.policies import freeze
from modereg.testing import CountingEnv, TinyPolicy
from modereg.transforms import ActionChunk, LatentConditioner, NoiseAction
from modereg.wrapping import make_steering, observation_size, steer_env

BOUND, CODES, SHAPE = 3.0, 2, (4, 2)
READ = [keys.OBSERVATION, keys.LATENT_FEATURES]
SIZE, NOISE = 3 + CODES, 8


class Flat(nn.Module):
    """An MLP on all inputs side by side; the noise among them may be of any shape."""

    def __init__(self, size: int, out: int, shape: tuple[int, ...] = (), **head: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, 16), nn.Mish(), nn.Linear(16, out))
        self.shape = shape

    def forward(self, *inputs: Tensor) -> Tensor:
        batch = inputs[0].shape[:-1]
        flat = torch.cat([part.reshape(*batch, -1) for part in inputs], -1)
        out = self.layers(flat)
        return out.unflatten(-1, self.shape) if self.shape else out


class TwoHeads(nn.Module):
    """Mean and deviation of the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.split = Flat(SIZE, 2 * NOISE), NormalParamExtractor()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self.split(self.body(*inputs))
        return loc.unflatten(-1, SHAPE), scale.unflatten(-1, SHAPE)


def bounded_env() -> TransformedEnv:
    """Return a steered environment whose noise has bounds."""
    policy = freeze(TinyPolicy(3, SHAPE))
    return TransformedEnv(
        CountingEnv([6, 9, 12, 7]),
        Compose(
            ActionChunk(3, horizon=4), NoiseAction(policy, bound=BOUND), LatentConditioner(CODES)
        ),
    )


def stochastic_actor(env: TransformedEnv) -> ProbabilisticActor:
    """Return a squashed Gaussian on the noise."""
    spec = env.action_spec_unbatched
    low, high = spec.space.low.flatten()[0], spec.space.high.flatten()[0]
    return ProbabilisticActor(
        TensorDictModule(TwoHeads(), READ, ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=spec,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": low, "high": high, "event_dims": 2},
        return_log_prob=True,
        default_interaction_type=InteractionType.RANDOM,
    )


class Squashed(Flat):
    """Noise within the bounds, without any of its own."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return BOUND * super().forward(*inputs).tanh()


def deterministic_actor() -> TensorDictModule:
    """Return a policy that chooses one noise."""
    return TensorDictModule(Squashed(SIZE, NOISE, SHAPE), READ, [keys.ACTION])


def q_value() -> ValueOperator:
    """Return Q(s, z, w)."""
    return ValueOperator(
        Flat(SIZE + NOISE, 1), in_keys=[*READ, keys.ACTION], out_keys=["state_action_value"]
    )


def value() -> ValueOperator:
    """Return V(s, z)."""
    return ValueOperator(Flat(SIZE, 1), in_keys=READ)


def sac(env: TransformedEnv) -> LossModule:
    return SACLoss(stochastic_actor(env), q_value(), action_spec=env.action_spec_unbatched)


def td3(env: TransformedEnv) -> LossModule:
    return TD3Loss(deterministic_actor(), q_value(), action_spec=env.action_spec_unbatched)


def ddpg(env: TransformedEnv) -> LossModule:
    return DDPGLoss(deterministic_actor(), q_value())


def redq(env: TransformedEnv) -> LossModule:
    actor = stochastic_actor(env)
    return REDQLoss(actor, q_value(), num_qvalue_nets=3, action_spec=env.action_spec_unbatched)


def iql(env: TransformedEnv) -> LossModule:
    return IQLLoss(stochastic_actor(env), q_value(), value())


def crossq(env: TransformedEnv) -> LossModule:
    return CrossQLoss(stochastic_actor(env), q_value(), action_spec=env.action_spec_unbatched)


OFF_POLICY: dict[str, Callable[[TransformedEnv], LossModule]] = {
    "SAC": sac,
    "TD3": td3,
    "DDPG": ddpg,
    "REDQ": redq,
    "IQL": iql,
    "CrossQ": crossq,
}


def step(loss: LossModule, batch: TensorDictBase) -> dict[str, float]:
    """Make one gradient step on all losses together; return them."""
    optimizer = torch.optim.Adam([*loss.parameters()], 1e-2)
    losses = {name: part for name, part in loss(batch).items() if name.startswith("loss_")}
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    return {name: float(part.detach()) for name, part in losses.items()}


def check_step(loss: LossModule, batch: TensorDictBase, least: int) -> None:
    """Check that the losses are finite and that every network of the loss moves."""
    before = copy.deepcopy(dict(loss.named_parameters()))
    losses = step(loss, batch)
    assert len(losses) >= least
    assert all(math.isfinite(part) for part in losses.values()), losses
    moved = {
        name.split(".")[0].split("_network")[0]
        for name, now in loss.named_parameters()
        if not torch.equal(now, before[name])
    }
    trained = {
        name.split(".")[0].split("_network")[0]
        for name, now in loss.named_parameters()
        if now.requires_grad
    }
    assert moved == trained
    assert len(moved) >= 2  # who acts, and who judges


@pytest.mark.parametrize("name", OFF_POLICY)
def test_losses_that_learn_from_any_batch(name: str) -> None:
    env = bounded_env()
    loss = OFF_POLICY[name](env)
    if name != "CrossQ":  # which has no target networks
        SoftUpdate(loss, tau=0.01)
    batch = env.rollout(6, break_when_any_done=False).reshape(-1)
    assert batch.get(keys.ACTION).abs().max() <= BOUND
    check_step(loss, batch, least=2)


@pytest.mark.parametrize("name", ["PPO", "A2C"])
def test_losses_that_learn_from_their_own_batch(name: str) -> None:
    """On unbounded noise, with the steering policy that modereg makes, and its advantages."""
    policy = freeze(TinyPolicy(3, SHAPE))
    env = steer_env(CountingEnv([6, 9, 12, 7]), policy, CODES, Layout(12, execute=3))
    steering = make_steering(env, policy, CODES, hidden=(16,))
    assert observation_size(env, env.layout.steered_by) + CODES == SIZE
    critic = value()
    batch = env.rollout(4, steering, break_when_any_done=False)
    advantage_estimator(env.layout, critic, reward_key=keys.REWARD)(batch)
    kind = {"PPO": ClipPPOLoss, "A2C": A2CLoss}[name]
    check_step(kind(steering, critic), batch.detach().reshape(-1), least=2)


def test_an_actor_within_the_bounds_steers_the_environment() -> None:
    env = bounded_env()
    assert isinstance(env.action_spec, Bounded)
    rollout = env.rollout(3, stochastic_actor(env))
    assert env.action_spec.is_in(rollout.get(keys.ACTION)[:, 0])
    assert rollout.get(("next", keys.CHUNK)).shape == (4, rollout.shape[1], *SHAPE)
