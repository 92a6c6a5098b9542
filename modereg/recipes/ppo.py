"""PPO on a steered environment: what stage 1 by reinforcement learning and stage 2 share.

Collecting is TorchRL's ``Collector``, advantages are its ``GAE``, the objective is
:class:`~modereg.objectives.LeanPPOLoss`. Copy this file and change it.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.envs import EnvBase
from torchrl.objectives.value import GAE

from modereg import keys
from modereg.networks import MLP
from modereg.objectives import LeanPPOLoss
from modereg.recipes.config import PPOConfig
from modereg.recipes.runs import seed_everything
from modereg.steering import SteeringPolicy

__all__ = ["PPO", "fit_features", "make_critic"]


def make_critic(
    observation_keys: list[NestedKey],
    observation_dim: int,
    latent_dim: int,
    hidden: tuple[int, ...],
) -> TensorDictModule:
    """Return a critic of observations and code, with the features of the steering policy."""
    network = MLP(observation_dim + latent_dim, 1, hidden, octaves=4, plain_features=latent_dim)
    return TensorDictModule(network, [*observation_keys, keys.LATENT_FEATURES], ["state_value"])


def fit_features(observations: Tensor, *networks: MLP) -> None:
    """Standardise the inputs of some networks by observations of the base, ``[n, O]``."""
    for network in networks:
        network.features.fit(observations)


ITERATIONS = 5
"""Sets the seeds of iterations apart from those of other parts of a run."""


class PPO:
    """Collects whole batches from fresh, seeded resets and updates steering policy and critic.

    Args:
        env: steered environment, batch ``[B]``.
        steering: the policy.
        critic: writes ``state_value``.
        config: options.
        reward_key: which reward it maximises.
        decisions: decisions of each environment in a batch.
        truncates: whether episodes can be truncated, so that the value of the last state counts.
    """

    def __init__(
        self,
        env: EnvBase,
        steering: SteeringPolicy,
        critic: TensorDictModule,
        config: PPOConfig,
        *,
        reward_key: NestedKey,
        decisions: int,
        truncates: bool,
    ) -> None:
        self.env, self.steering, self.critic, self.config = env, steering, critic, config
        self.collector = Collector(
            env,
            steering,
            frames_per_batch=env.batch_size.numel() * decisions,
            total_frames=-1,
            reset_at_each_iter=True,
            track_traj_ids=False,
            use_buffers=False,
            trust_policy=True,
            auto_register_policy_transforms=False,
        )
        self.advantage = GAE(
            gamma=config.gamma,
            lmbda=config.lmbda,
            value_network=critic,
            average_gae=False,
            shifted=not truncates,
        )
        self.advantage.set_keys(reward=reward_key, steps_to_next_obs=("next", keys.STEPS))
        self.loss = LeanPPOLoss(
            steering,
            critic,
            clip_epsilon=config.clip,
            entropy_coeff=0.0,
            kl_coef=config.kl_coef,
            loss_critic_type="l2",
        )
        self.loss.set_keys(reward=reward_key)
        self.optimizer = self._make_optimizer()

    def _make_optimizer(self) -> torch.optim.Adam:
        config, head = self.config, self.steering.head
        groups = [
            {"params": [*head.network.parameters()], "lr": config.learning_rate},
            {"params": [*head.log_std.parameters()], "lr": config.std_learning_rate},
            {"params": [*self.critic.parameters()], "lr": config.critic_learning_rate},
        ]
        return torch.optim.Adam(groups, fused=True)

    def collect(self, seed: int, iteration: int) -> TensorDictBase:
        """Return a batch ``[B, T]`` that begins with a reset seeded by run and iteration."""
        self.env.set_seed(seed_everything(seed, ITERATIONS, iteration))
        return self.collector.rollout()

    def update(self, batch: TensorDictBase) -> dict[str, float]:
        """Go over a batch a few times; return the mean of the last pass's figures."""
        with torch.no_grad():
            self.advantage(batch)
        data = batch.select(*self.loss.in_keys).reshape(-1)
        advantage = data.get("advantage")
        data.set("advantage", (advantage - advantage.mean()) / advantage.std().clamp_min(1e-6))
        for epoch in range(self.config.epochs):
            self.loss.figures = epoch == self.config.epochs - 1  # only for the logs, at a price
            shuffled = data[torch.randperm(len(data))]
            losses = [self._step(part) for part in shuffled.split(self.config.minibatch)]
        mean: TensorDictBase = torch.stack(losses).mean(0)
        mean["noise_entropy"] = mean.pop("entropy")  # "entropy" is that of behaviours, everywhere
        return {name: float(value) for name, value in mean.items()}

    def _step(self, minibatch: TensorDictBase) -> TensorDictBase:
        losses = self.loss(minibatch)
        total = losses["loss_objective"] + losses["loss_critic"]
        if self.config.kl_coef:
            total = total + losses["loss_kl"]
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm, foreach=True)
        self.optimizer.step()
        return losses.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes between iterations."""
        return {
            "steering": dict(self.steering.state_dict()),
            "critic": dict(self.critic.state_dict()),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        self.steering.load_state_dict(state["steering"])
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
