"""Fine-tuning on Avoid in plain torch: what ``overhead.py`` compares modereg's loop with.

No TorchRL, no tensordict: a dictionary of tensors, a hand-written environment, generalised
advantages and PPO. It computes what ``modereg.recipes`` compute, with their networks and in their
order, from their random numbers, so that an iteration of each from one seed gives one result:
``overhead.py`` checks it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modereg.learners.config import PPOConfig
from modereg.policies import GenerativePolicy
from modereg.steering import SteeringHead
from modereg.tasks import Avoid

Batch = dict[str, Tensor]


def log_density(loc: Tensor, scale: Tensor, noise: Tensor) -> Tensor:
    """Return the log density of noises ``[N, H, A]`` under a diagonal Gaussian, ``[N]``."""
    terms = 0.5 * ((noise - loc) / scale).square() + scale.log()
    return -terms.flatten(1).sum(-1) - 0.5 * math.log(2 * math.pi) * loc[0].numel()


class BareAvoid:
    """Avoid's dynamics on plain tensors; geometry and generator are those of an :class:`Avoid`.

    Args:
        env: gives the geometry (its ``judge``) and the constants.
    """

    def __init__(self, env: Avoid) -> None:
        self.env, self.size = env, env.batch_size.numel()

    def seed(self, seed: int) -> None:
        """Seed the starts."""
        self.env._generator.manual_seed(seed)

    def reset(self, mask: Tensor | None = None) -> None:
        """Begin new episodes, in the rows of a mask ``[N, 1]`` or in all."""
        start = self.env._draw_start()
        if mask is None:
            mask = torch.ones(self.size, 1, dtype=torch.bool)
            self.desired, self.current = start, start
            self.steps, self.alive = torch.zeros(self.size, 1), torch.ones(self.size, 1)
        self.desired = torch.where(mask, start, self.desired)
        self.current = torch.where(mask, start, self.current)
        self.steps = self.steps.masked_fill(mask, 0)
        self.alive = self.alive.masked_fill(mask, 1)
        self.env._forget(mask)

    def step(self, action: Tensor) -> Tensor:
        """Play an action ``[N, 2]``; return the reward ``[N, 1]``."""
        alive = self.alive
        self.desired = torch.addcmul(self.desired, action, alive)
        self.current = torch.lerp(self.current, self.desired, alive * self.env.tracking)
        self.steps = self.steps + alive
        success, failure, mode = (part.unsqueeze(-1) for part in self.env.judge(self.current))
        done = success | failure | (self.steps >= self.env.max_steps)
        self.alive = done.logical_not().float()
        return self.env.pay[mode.clamp_min(0)] * (success * alive)

    def observe(self) -> tuple[Tensor, Tensor]:
        """Return the observation ``[N, 4]`` and the elapsed share ``[N, 1]``."""
        observation = torch.cat([self.desired, self.current], -1)
        return observation, self.steps / self.env.max_steps


class BareLoop:
    """PPO on the noise of a frozen base policy, in plain torch.

    Args:
        env: environment.
        base: the base policy; its ``decode`` is called.
        head: the steering policy's network: mean and standard deviation of the noise.
        critic: value of observation, elapsed share and code.
        infer: q, from the history ``[n, (T + 1) * 2]`` to logits; None pays no intrinsic reward.
        num_codes: K.
        decisions: T, decisions of each environment in a batch.
        config: options of PPO.
        gamma: discount of an environment step.
        coef: weight of the intrinsic reward.
    """

    def __init__(
        self,
        env: Avoid,
        base: GenerativePolicy,
        head: SteeringHead,
        critic: nn.Module,
        infer: nn.Module | None,
        *,
        num_codes: int,
        decisions: int,
        config: PPOConfig,
        gamma: float,
        coef: float,
    ) -> None:
        self.env, self.base, self.head, self.critic = BareAvoid(env), base, head, critic
        self.infer, self.num_codes, self.decisions = infer, num_codes, decisions
        self.config, self.gamma, self.coef = config, gamma, coef
        self.limit = env.max_delta
        self.probabilities = torch.ones(num_codes) / num_codes
        self.slots = torch.arange(decisions + 1)
        groups = [
            (head.network, config.learning_rate),
            (head.log_std, config.std_learning_rate),
            (critic, config.critic_learning_rate),
        ]
        self.parameters = [p for module, _ in groups for p in module.parameters()]
        self.optimizer = torch.optim.Adam(
            [{"params": [*module.parameters()], "lr": rate} for module, rate in groups], fused=True
        )

    def _draw_codes(self) -> Tensor:
        size = self.env.size
        return torch.multinomial(self.probabilities, size, replacement=True)

    def _begin(self, mask: Tensor | None = None) -> None:
        """Reset environment, codes and histories, in the rows of a mask ``[N, 1]`` or in all."""
        self.env.reset(mask)
        codes, length = self._draw_codes(), self.decisions + 1
        features = F.one_hot(codes, self.num_codes).float()
        history = self.env.current.unsqueeze(1).repeat(1, length, 1)
        count = torch.zeros(self.env.size, 1, dtype=torch.int64)
        if mask is not None:
            codes = torch.where(mask.squeeze(-1), codes, self.codes)
            features = torch.where(mask, features, self.features)
            history = torch.where(mask.unsqueeze(-1), history, self.history)
            count = torch.where(mask, count, self.count)
        self.codes, self.features, self.history, self.count = codes, features, history, count

    @torch.no_grad()
    def collect(self, seed: int) -> Batch:
        """Return a batch of ``[T, N, ...]`` tensors from fresh resets."""
        self.env.seed(seed)
        self._begin()
        steps: list[Batch] = []
        for _ in range(self.decisions):
            steps.append(self._decide())
            done = steps[-1]["done"]
            if bool(done.any()):
                self._begin(done)
        batch = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
        observation, elapsed = self.env.observe()
        last = {"observation": observation, "elapsed": elapsed, "features": self.features}
        self._advantages(batch, self.critic(*last.values()))
        return batch

    def _decide(self) -> Batch:
        """Decode one chunk in every environment, play it, and return what PPO reads of it."""
        env = self.env
        observation, elapsed = env.observe()
        step = {"observation": observation, "elapsed": elapsed, "features": self.features}
        loc, scale = self.head(observation, elapsed, self.features)
        noise = torch.normal(loc, scale)
        step["noise"] = noise
        step["log_prob"] = log_density(loc, scale, noise)
        chunk = self.base.decode(noise, observation).clamp(-self.limit, self.limit)
        reward, length = torch.zeros(env.size, 1), torch.zeros(env.size, 1)
        for index, action in enumerate(chunk.unbind(1)):
            length = length + env.alive
            reward = reward + self.gamma**index * env.step(action)
            if not bool(env.alive.any()):
                break
        step["reward"], step["length"], step["done"] = reward, length, env.alive == 0
        self.count = self.count + 1
        new = (self.slots >= self.count.clamp_max(self.decisions)).unsqueeze(-1)
        self.history = torch.where(new, env.current.unsqueeze(1), self.history)
        step["history"], step["codes"] = self.history.flatten(1), self.codes
        return step

    def _intrinsic(self, batch: Batch) -> Tensor:
        """Return gamma^n (log q - log p) / log K where an episode ends, ``[T, N, 1]``."""
        done = batch["done"].squeeze(-1)
        log_q = self.infer(batch["history"][done]).log_softmax(-1)
        limit = torch.tensor(float(self.num_codes)).log()
        ratio = log_q.gather(-1, batch["codes"][done].unsqueeze(-1)) + limit
        reward = torch.zeros_like(batch["reward"])
        paid = ratio.clamp(-limit, limit) / limit
        reward[done] = self.gamma ** batch["length"][done] * paid
        return reward

    def _advantages(self, batch: Batch, last: Tensor) -> None:
        """Add the intrinsic reward, the generalised advantage and the value's target."""
        if self.infer is not None:
            batch["reward"] = batch["reward"] + self.coef * self._intrinsic(batch)
        values = self.critic(batch["observation"], batch["elapsed"], batch["features"])
        values = torch.cat([values, last.unsqueeze(0)])
        going, discount = ~batch["done"], self.gamma ** batch["length"]
        delta = batch["reward"] + discount * values[1:] * going - values[:-1]
        decay, advantage, found = discount * self.config.lmbda * going, 0.0, []
        for index in reversed(range(self.decisions)):
            advantage = delta[index] + decay[index] * advantage
            found.append(advantage)
        batch["advantage"] = torch.stack(found[::-1])
        batch["target"] = batch["advantage"] + values[:-1]

    def update(self, batch: Batch) -> None:
        """Go over the batch a few times."""
        names = ("observation", "elapsed", "features", "noise", "log_prob", "advantage", "target")
        data = {name: batch[name].transpose(0, 1).flatten(0, 1) for name in names}
        advantage = data["advantage"].squeeze(-1)
        data["advantage"] = (advantage - advantage.mean()) / advantage.std().clamp_min(1e-6)
        for _ in range(self.config.epochs):
            order = torch.randperm(len(advantage))
            shuffled = {name: value[order] for name, value in data.items()}
            parts = zip(*(value.split(self.config.minibatch) for value in shuffled.values()))
            for part in parts:
                self._step(dict(zip(names, part)))

    def _step(self, part: Batch) -> None:
        inputs = part["observation"], part["elapsed"], part["features"]
        loc, scale = self.head(*inputs)
        log_prob = log_density(loc, scale, part["noise"])
        ratio, epsilon = (log_prob - part["log_prob"]).exp(), self.config.clip
        clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
        gain = torch.minimum(ratio * part["advantage"], clipped * part["advantage"])
        loss = F.mse_loss(self.critic(*inputs), part["target"]) - gain.mean()
        if self.config.kl_coef:
            kl = 0.5 * (loc.square() + scale.square() - 1) - scale.log()
            loss = loss + self.config.kl_coef * kl.sum((-2, -1)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm, foreach=True)
        self.optimizer.step()
