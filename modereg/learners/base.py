"""What a learner is, and the problem that it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.objectives.value import GAE

from modereg import keys
from modereg.devices import module_device
from modereg.errors import ConfigurationError, NonFiniteError
from modereg.layout import Layout
from modereg.networks import MLP, EnsembleMLP
from modereg.policies import DenoisingChain, GenerativePolicy
from modereg.policies import embed_codes as embedded
from modereg.residual import ChunkResidual, StepResidual
from modereg.steering import SteeringPolicy
from modereg.transforms import MIReward
from modereg.wrapping import SteeredEnv, observation_size

__all__ = ["Learner", "Problem", "advantage_estimator", "descend"]

STEP_BOUND = 0.5
"""Of a residual of single steps that is new."""


class Learner(Protocol):
    """Improves a steering policy.

    The loop calls :meth:`collect`, pays the intrinsic reward on the batch, and calls
    :meth:`update`. What :meth:`state_dict` returned, taken up by a fresh learner of the same
    problem, goes on to the same numbers: a learner in the middle of episodes may therefore end
    them in ``state_dict``, so that both go on from a seeded reset.
    """

    checkpoint_every: int
    """Batches between two calls of :meth:`state_dict`."""

    def collect(self) -> TensorDictBase:
        """Return fresh transitions ``[B, T]``."""

    def update(self, batch: TensorDictBase) -> dict[str, float]:
        """Learn from a batch, whose rewards are complete, and return figures for the log."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes: tensors, numbers, strings, lists and dictionaries."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""


@dataclass(frozen=True)
class Problem:
    """What a learner improves, and on what.

    Attributes:
        env: steered environment, batch ``[B]``, the learner's own.
        steering: psi(w | s, z), trained in place.
        base: the frozen base policy.
        reward_key: entry of ``next`` that is maximised.
        mi_reward: pays the intrinsic reward on batches, before each update; a learner with a replay
            buffer pays it again on what it samples. None where there is none.
        seed: of the run.
        hidden: widths of the networks that a learner makes.
    """

    env: SteeredEnv
    steering: SteeringPolicy
    base: GenerativePolicy
    reward_key: NestedKey
    mi_reward: MIReward | None = None
    seed: int = 0
    hidden: tuple[int, ...] = (128, 128)

    @property
    def layout(self) -> Layout:
        """The layout of the environment."""
        return self.env.layout

    def make_collector(self, decisions: int, *, whole: bool = False) -> Collector:
        """Return TorchRL's collector of so many decisions of each environment a batch.

        Args:
            decisions: T.
            whole: whether each batch begins with a reset.
        """
        return Collector(
            self.env,
            self.steering,
            frames_per_batch=self.env.batch_size.numel() * decisions,
            total_frames=-1,
            reset_at_each_iter=whole,
            track_traj_ids=False,
            use_buffers=False,
            trust_policy=True,
            auto_register_policy_transforms=False,
        )

    def make_critic(self, octaves: int = 4) -> TensorDictModule:
        """Return V(s, z), which writes ``state_value`` ``[*B, 1]``.

        Where the steering policy is an :class:`~modereg.networks.MLP`, inputs are standardised as
        its are.
        """
        observed, latent_dim = self.layout.steered_by, self.steering.head.log_std.in_features
        size = observation_size(self.env, observed) + latent_dim
        network = MLP(size, 1, self.hidden, octaves=octaves, plain_features=latent_dim)
        actor = self.steering.head.network
        if isinstance(actor, MLP):
            network.features.load_state_dict(actor.features.state_dict())
        network.to(next(self.steering.parameters()).device)
        return TensorDictModule(network, [*observed, self.steering.latent_key], ["state_value"])

    def make_step_critic(self, octaves: int = 4) -> TensorDictModule:
        """Return V(s, a, z) of single steps, a the base's action, as :meth:`make_critic` V(s, z).

        Inputs are standardised once ``module.features.fit`` was given some.
        """
        observed, latent_dim = self.layout.steered_by, self.steering.head.log_std.in_features
        size = observation_size(self.env, observed) + self.action_size + latent_dim
        network = MLP(size, 1, self.hidden, octaves=octaves, plain_features=latent_dim)
        network.to(module_device(self.steering))
        read = [*observed, keys.BASE_ACTION, self.steering.latent_key]
        return TensorDictModule(network, read, ["state_value"])

    @property
    def action_size(self) -> int:
        """Numbers of an action that is played."""
        return self.env.observation_spec[keys.EXECUTED].shape[-1]

    def make_qvalue(self, members: int, octaves: int = 4) -> TensorDictModule:
        """Return Q(s, z, w), which writes ``state_action_value`` ``[*B, E]``, one of each member.

        Inputs are standardised as the steering policy's are, where that is an
        :class:`~modereg.networks.MLP`.
        """
        size = self.steering.noise_shape.numel()
        return self._ensemble(self.steering.action_key, size, members, octaves)

    def make_chunk_qvalue(self, members: int, octaves: int = 4) -> TensorDictModule:
        """Return Q(s, z, a) of executed chunks, as :meth:`make_qvalue` of noises.

        It reads ``executed_chunk`` ``[*B, execute, A]``, standardised once ``module.scaled.fit``
        was given some, ``[n, execute * A]``.

        Raises:
            ConfigurationError: if a residual moves single steps of them.
        """
        if self.env.step_residual is not None:
            raise ConfigurationError(
                "expected chunks that are executed as they are decoded, got a start whose residual "
                "moves each action when it is played; go on with resip or resfit, or with ppo, sac "
                "or dppo"
            )
        size = observation_size(self.env, [keys.EXECUTED])
        return self._ensemble(keys.EXECUTED, size, members, octaves, scaled_features=size)

    def make_step_qvalue(self, members: int, octaves: int = 4) -> TensorDictModule:
        """Return Q(s, z, a) of single played actions, as :meth:`make_chunk_qvalue` of chunks."""
        size = self.action_size
        return self._ensemble(keys.PLAYED, size, members, octaves, scaled_features=size)

    def make_residual(self, directions: int, bound: float) -> ChunkResidual:
        """Return a residual behind the codes of the steering policy that moves nothing yet.

        Args:
            directions: how many it has at most, one for each number of an executed chunk. They are
                zeros, for the learner to fill in.
            bound: of its length.
        """
        observed, latent_dim = self.layout.steered_by, self.steering.head.log_std.in_features
        size, device = observation_size(self.env, [keys.EXECUTED]), module_device(self.steering)
        residual = ChunkResidual.at_zero(
            observed,
            observation_size(self.env, observed),
            latent_dim,
            torch.zeros(min(directions, size), size, device=device),
            bound=bound,
            offset=self.layout.offset,
            hidden=self.hidden,
            latent_key=self.steering.latent_key,
        )
        actor, network = self.steering.head.network, residual.network.head.network
        if isinstance(actor, MLP) and isinstance(network, MLP):
            network.features.load_state_dict(actor.features.state_dict())
        return residual.to(device)

    def make_step_residual(self, bound: float | None) -> StepResidual:
        """Return the residual of single steps that a start brings, or one that moves nothing yet.

        The inputs of a new one are not standardised, and its directions are zeros, for the learner
        to fill in.

        Args:
            bound: of its length; None takes the start's, and 0.5 for a new one.

        Raises:
            ConfigurationError: if the start's has another bound.
        """
        there = self.env.step_residual
        if there is None:
            observed, size = self.layout.steered_by, self.action_size
            return StepResidual.at_zero(
                [*observed, keys.BASE_ACTION],
                observation_size(self.env, observed) + size,
                self.steering.head.log_std.in_features,
                torch.zeros(size, size),
                bound=STEP_BOUND if bound is None else bound,
                hidden=self.hidden,
                latent_key=self.steering.latent_key,
                log_std_range=(-8.0, 0.3),
            ).to(module_device(self.steering))
        if bound not in (None, there.bound):
            raise ConfigurationError(
                f"expected the bound of the step residual that the start brings, {there.bound}, "
                f"got {bound}; leave it out"
            )
        return there

    def make_chain(
        self, steps: int | None, rank: int | None, *, embed_codes: bool, **options: float
    ) -> DenoisingChain:
        """Return a chain of the base, with the weights that a start brought, if any.

        Args:
            steps: of the last denoising steps, how many are trained; None takes those of the start,
                and all of a base that was not trained.
            rank: of low-rank adapters; None takes the start's, and trains all weights of a base
                that was not trained.
            embed_codes: whether the denoiser is told the code too; False takes what the start did.
            **options: of :class:`~modereg.policies.DenoisingChain`.

        Raises:
            ConfigurationError: if the base has no such chain, cannot be told codes, or the start's
                weights are of another number of steps, or of another rank, or told other codes.
        """
        key, codes = self.steering.latent_key, self.steering.head.log_std.in_features
        if embed_codes and codes < 2:
            raise ConfigurationError(
                "expected several codes for a denoiser that is told them, got one; name a start or "
                "a number of codes, or leave embed_codes out"
            )
        there = self.env.tuned
        asked = {"steps": steps, "rank": rank, "codes": codes if embed_codes else None}
        if there is None:
            made: dict[str, Any] = {"steps": steps, "rank": rank, **options}
            if not embed_codes:
                return DenoisingChain(self.base, **made)
            observed = self.env.fake_tensordict()
            return embedded(self.base, codes, observed, features_key=key, **made)
        found = {name: getattr(there, name) for name in asked}
        for name, value in asked.items():
            if value not in (None, found[name]):
                raise ConfigurationError(
                    f"expected {name} as the start trained, {found[name]}, got {value}; leave them "
                    "out"
                )
        return there.weights().chain(self.base, features_key=key, **options)

    def _ensemble(
        self, key: NestedKey, length: int, members: int, octaves: int, **options: int
    ) -> TensorDictModule:
        """Return an ensemble of critics of an entry beside the state."""
        observed, head = self.layout.steered_by, self.steering.head
        plain = head.log_std.in_features + length
        size = observation_size(self.env, observed) + plain
        network = EnsembleMLP(
            size, members, self.hidden, octaves=octaves, plain_features=plain, **options
        )
        if isinstance(head.network, MLP):
            network.features.load_state_dict(head.network.features.state_dict())
        network.to(next(self.steering.parameters()).device)
        read = [*observed, self.steering.latent_key, key]
        return TensorDictModule(network, read, ["state_action_value"])


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, max_norm: float, where: str) -> None:
    """Take a step of an optimiser down a loss.

    Args:
        optimizer: whose gradients are cleared first.
        loss: scalar.
        max_norm: norm to which gradients are clipped.
        where: what it is a step of, for the error.

    Raises:
        NonFiniteError: before the step, if a gradient is not finite.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [part for group in optimizer.param_groups for part in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
    if not bool(torch.isfinite(norm)):
        raise NonFiniteError(
            f"expected finite gradients in {where}, got a norm of {float(norm)}; lower the "
            "learning rate, or look for huge values among observations and rewards"
        )
    optimizer.step()


def advantage_estimator(
    layout: Layout,
    critic: TensorDictModule,
    *,
    reward_key: NestedKey = keys.REGULARIZED_REWARD,
    lmbda: float = 0.95,
    **options: Any,
) -> GAE:
    """Return TorchRL's GAE with the discount and the keys of a layout.

    The discount of a decision is ``gamma`` to the power of its environment steps. Where the time
    limit terminates, each value is computed once (``shifted``).

    Args:
        layout: of the environment.
        critic: writes ``state_value``.
        reward_key: entry of ``next`` that is maximised.
        lmbda: lambda, a decision.
        **options: of :class:`~torchrl.objectives.value.GAE`.
    """
    shifted = layout.time_limit == "terminates"
    defaults = {"average_gae": False, "shifted": shifted} | options
    gae = GAE(gamma=layout.gamma, lmbda=lmbda, value_network=critic, **defaults)
    gae.set_keys(reward=reward_key, steps_to_next_obs=("next", keys.STEPS))
    return cast(GAE, gae)
