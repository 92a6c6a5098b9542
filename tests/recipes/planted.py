"""An environment that only adds actions up, and policies whose noise decides all or nothing."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Unbounded
from torchrl.envs import EnvBase

from modereg import keys
from modereg.layout import Layout
from modereg.policies import GenerativePolicy, as_generative_policy
from modereg.tasks import Task

SIZE, STEPS = 8, 3


class AddingEnv(EnvBase):
    """``o' = o + a + .2 xi``: no success, no label, three steps."""

    finished_rows_stay = True
    drift = 0.2

    def __init__(self, num_envs: int, device: str = "cpu") -> None:
        super().__init__(device=device, batch_size=torch.Size([num_envs]))
        shape = (num_envs, SIZE)
        self.observation_spec = self.observation_spec.clone()
        self.observation_spec[keys.OBSERVATION] = Unbounded(shape)
        self.action_spec, self.reward_spec = Unbounded(shape), Unbounded((num_envs, 1))
        self.position, self.steps = torch.zeros(shape), 0

    def _set_seed(self, seed: int | None) -> None:
        pass  # it draws from torch's generator

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: object) -> TensorDictBase:
        self.position, self.steps = torch.zeros_like(self.position), 0
        return TensorDict({keys.OBSERVATION: self.position}, self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        drift = self.drift * torch.randn_like(self.position)
        self.position, self.steps = self.position + tensordict[keys.ACTION] + drift, self.steps + 1
        done = torch.full((*self.batch_size, 1), self.steps >= STEPS)
        return TensorDict(
            {
                keys.OBSERVATION: self.position,
                keys.REWARD: torch.zeros(*self.batch_size, 1),
                "done": done,
                "terminated": done.clone(),
            },
            self.batch_size,
        )


class GoalEnv(AddingEnv):
    """The same, with a goal and something that walks by itself in the last two dimensions."""

    drift = 0.02

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: object) -> TensorDictBase:
        reset = super()._reset(tensordict)
        self.position[..., -1] = 10 * torch.randn(self.batch_size)
        return reset

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        before = self.position[..., -2:]
        walked = before + torch.stack(
            [3 * torch.randn(self.batch_size), torch.zeros(len(before))], -1
        )
        stepped = super()._step(tensordict)
        self.position[..., -2:] = walked
        return stepped


def task() -> Task:
    """Return the task, one action a decision."""
    return _task(AddingEnv)


def task_with_goal() -> Task:
    """Return the task that shows more than the policy decides."""
    return _task(GoalEnv)


def _task(env: type[AddingEnv]) -> Task:
    layout = Layout(STEPS, horizon=1, execute=1, time_limit="terminates")
    return Task("adding", env, layout, num_envs=64)


def deciding() -> GenerativePolicy:
    """Return a policy that plays its noise."""
    return _policy(lambda noise, observation: noise)


def forking() -> GenerativePolicy:
    """Return a policy that goes one of four ways, as its first noise says."""

    def decode(noise: Tensor, observation: Tensor) -> Tensor:
        begun = observation.unsqueeze(-2)
        return _one_of_four(torch.where(begun == 0, noise, begun), noise)

    return _policy(decode)


def drifting() -> GenerativePolicy:
    """Return a policy that goes one of four ways, as chance says."""
    return _policy(lambda noise, observation: _one_of_four(observation.unsqueeze(-2), noise))


def _one_of_four(direction: Tensor, noise: Tensor) -> Tensor:
    ways = 4 * direction[..., :2].sign()
    return torch.cat([ways, 0.1 * noise[..., 2:]], -1)


def ignoring() -> GenerativePolicy:
    """Return a policy that nearly ignores its noise."""
    return _policy(lambda noise, observation: 1e-4 * noise)


def stochastic() -> GenerativePolicy:
    """Return a policy that draws afresh whatever its noise is."""
    return _policy(lambda noise, observation: torch.randn_like(noise))


def _policy(function: object) -> GenerativePolicy:
    shape = (1, SIZE)
    return as_generative_policy(
        function, in_keys=[keys.OBSERVATION], noise_shape=shape, chunk_shape=shape
    )
