"""DDiffPG's learner: whole trajectories in, critics of modes, target actions, a diffusion actor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDict
from torch import Tensor
from torchrl.envs import EnvBase

from modereg import functional, keys
from modereg.ddiffpg.actor import Commanded, ModeActor
from modereg.ddiffpg.critics import ModeCritics
from modereg.ddiffpg.modes import ModeTable
from modereg.ddiffpg.replay import EXPLORE, OWN, TrajectoryReplay
from modereg.ddiffpg.targets import climb
from modereg.errors import ConfigurationError
from modereg.learners.base import descend
from modereg.novelty import RandomNetworkDistillation
from modereg.rollouts import Episodes, collect_episodes
from modereg.seeding import derived_seed, isolated_generators

__all__ = ["DDiffPG", "DDiffPGOptions"]

COLLECTION = 7
"""Sets the seeds of collected batches apart from those of other parts of a run."""

MARGIN = 1.25
"""How far a support reaches beyond the returns that were seen."""


@dataclass(frozen=True)
class DDiffPGOptions:
    """Numbers of :class:`DDiffPG`.

    Attributes:
        gamma: discount of an environment step.
        batch: decisions of a gradient step, shared equally by the modes and exploration.
        tau: of the target critics.
        climb_steps: of Adam that a target action takes each time it is drawn.
        climb_rate: of each.
        explore: share of the episodes that explore, while the others are commanded; the rest of it
            is shared equally by the modes.
        explore_noise: standard deviation of what is added to chunks that explore, in units of the
            actions' range halved.
        command_noise: the same of commanded ones.
        intrinsic: weight of the novelty beside the reward in the critics of modes.
        actor_rate: learning rate of the actor.
        critic_rate: of the critics and the novelty's predictor.
        max_grad_norm: to which gradients are clipped.
        novelty_steps: gradient steps of the predictor on each batch of episodes.
    """

    gamma: float = 0.99
    batch: int = 256
    tau: float = 0.01
    climb_steps: int = 10
    climb_rate: float = 0.03
    explore: float = 0.5
    explore_noise: float = 0.5
    command_noise: float = 0.1
    intrinsic: float = 0.01
    actor_rate: float = 1e-3
    critic_rate: float = 1e-3
    max_grad_norm: float = 10.0
    novelty_steps: int = 5


class DDiffPG:
    """Learns several behaviours from nothing (DDiffPG, arXiv 2406.00681).

    Call :meth:`collect`, :meth:`learn` as often as there is time, and :meth:`find_modes` now and
    then. Everything that it draws comes from the global generators, and environments are seeded for
    each batch: what :meth:`state_dict` returned goes on to the same numbers.

    Args:
        env: batch ``[B]``, whose action is a chunk and which keeps a history.
        actor: what acts.
        critics: of the modes, with slot 0 for exploration.
        novelty: tells what is new, of ``state_keys``.
        modes: the table of modes.
        replay: of trajectories.
        state_keys: what critics and novelty read.
        max_decisions: of the longest episode.
        options: see :class:`DDiffPGOptions`.
        seed: of the environments.
    """

    def __init__(
        self,
        env: EnvBase,
        actor: ModeActor,
        critics: ModeCritics,
        novelty: RandomNetworkDistillation,
        modes: ModeTable,
        replay: TrajectoryReplay,
        *,
        state_keys: list[NestedKey],
        max_decisions: int,
        options: DDiffPGOptions | None = None,
        seed: int = 0,
    ) -> None:
        self.env, self.actor, self.critics, self.novelty = env, actor, critics, novelty
        self.modes, self.replay, self.state_keys = modes, replay, state_keys
        self.max_decisions = max_decisions
        self.options, self.seed = options or DDiffPGOptions(), seed
        self.batches = self.env_steps = 0
        self.actor_optimizer = torch.optim.Adam(actor.policy.parameters(), self.options.actor_rate)
        self.novelty_optimizer = torch.optim.Adam(
            novelty.predictor.parameters(), self.options.critic_rate
        )
        self._renew_optimizer()

    def _renew_optimizer(self) -> None:
        self.critic_optimizer = torch.optim.Adam(
            self.critics.networks.parameters(), self.options.critic_rate
        )

    # --- collecting

    def collect(self) -> dict[str, float]:
        """Play an episode in each row, some to explore and some by command, and keep them.

        Returns:
            Success of all, of those that explored and of the commanded, and novelty.
        """
        size, options = self.env.batch_size.numel(), self.options
        commands = self._commands(size)
        exploring = commands == 0
        noise = torch.where(exploring, options.explore_noise, options.command_noise)
        policy = Commanded(self.actor, self.modes.embeddings[commands], noise)
        episodes = self._play(policy)
        kept = self._as_kept(episodes)
        self.replay.extend(kept, self._groups(kept, commands))
        solved = kept.get("success").float()
        told = solved[~exploring]
        return {
            "success": float(solved.mean()),
            "explored_success": float(solved[exploring].mean()) if bool(exploring.any()) else 0.0,
            "commanded_success": float(told.mean()) if len(told) else 0.0,
            "novelty": self._learn_novelty(kept),
        }

    def prefill(self) -> None:
        """Play random chunks, half of them steady, and keep them."""
        box = self.actor.box

        def policy(tensordict: Any) -> Any:
            rows = len(tensordict)
            loose = 2.0 * torch.rand(rows, box.size) - 1.0
            steady = loose[:, : len(box.low)].repeat(1, box.horizon)
            flat = torch.where(torch.rand(rows, 1) < 0.5, steady, loose)
            return tensordict.set(keys.ACTION, box.chunk(flat))

        kept = self._as_kept(self._play(policy))
        self.replay.extend(kept, torch.zeros(len(kept), dtype=torch.int64))
        self._learn_novelty(kept)

    def _play(self, policy: Any) -> Episodes:
        """Play an episode in each row from a seeded reset."""
        self.env.set_seed(derived_seed(self.seed, COLLECTION, self.batches))
        self.batches += 1
        read = list(dict.fromkeys([*self.actor.observation_keys, *self.state_keys]))
        after = [("next", keys.EXECUTED), ("next", keys.REWARD), ("next", keys.STEPS)]
        final = [*read, keys.HISTORY, "terminated", *self._labels()]
        episodes = collect_episodes(
            self.env,
            self.env.batch_size.numel(),
            max_decisions=self.max_decisions,
            policy=policy,
            keep=[*read, *after],
            final=final,
        )
        self.env_steps += episodes.spent
        return episodes

    def _labels(self) -> list[NestedKey]:
        there = self.env.observation_spec.keys(True, True)
        if keys.SUCCESS not in there:
            raise ConfigurationError(
                f"expected an environment that says {keys.SUCCESS!r}, without which no trajectory "
                "can be told to have reached its goal; name its entry by the task's option "
                "success_key"
            )
        return [key for key in (keys.SUCCESS, keys.MODE) if key in there]

    def _as_kept(self, episodes: Episodes) -> TensorDict:
        """Return what the replay keeps of episodes, ``[N]``: one state more than decisions."""
        decisions, valid, final = episodes.decisions, episodes.valid, episodes.final
        lengths, rows = valid.sum(1), torch.arange(len(valid))
        kept: dict[Any, Any] = {}
        for key in dict.fromkeys([*self.actor.observation_keys, *self.state_keys]):
            value = decisions.get(key)
            value = torch.cat([value, value[:, :1]], 1)
            value[rows, lengths] = final.get(key)
            kept[key] = value
        history = final.get(keys.HISTORY)
        length = valid.shape[1]
        terminated = torch.zeros_like(valid)
        terminated[rows, lengths - 1] = final.get("terminated").squeeze(-1)
        after = decisions.get("next")
        return TensorDict(
            {
                "observed": TensorDict(kept, [*valid.shape[:1], length + 1]),
                "actions": self.actor.box.flat(after.get(keys.EXECUTED)),
                "rewards": after.get(keys.REWARD).squeeze(-1) * valid,
                "steps": after.get(keys.STEPS).squeeze(-1) * valid,
                "terminated": terminated,
                "length": lengths,
                "success": final.get(keys.SUCCESS).squeeze(-1),
                "path": history.unflatten(-1, (length + 1, -1)),
            },
            valid.shape[:1],
        )

    def _commands(self, size: int) -> Tensor:
        """Return the modes that rows are to show, ``[size]``; 0 explores."""
        if not self.modes.number:
            return torch.zeros(size, dtype=torch.int64)
        explorers = round(self.options.explore * size)
        turn = self.batches + torch.arange(size - explorers)
        commanded = 1 + turn % self.modes.number
        return torch.cat([torch.zeros(explorers, dtype=torch.int64), commanded])

    def _groups(self, kept: TensorDict, commands: Tensor) -> Tensor:
        """Return the modes of episodes: of successes where they went, else what was commanded."""
        groups, solved = commands.clone(), kept.get("success")
        rows = solved.nonzero().squeeze(-1)
        paths = [kept["path"][row, : int(kept["length"][row]) + 1] for row in rows.tolist()]
        groups[rows] = self.modes.modes_of(paths)
        return groups

    def _learn_novelty(self, kept: TensorDict) -> float:
        """Let the novelty's predictor learn states, and return their mean novelty before."""
        inside = torch.arange(kept["observed"].shape[1]) <= kept["length"][:, None]
        states = self._states(kept["observed"])[inside]
        with torch.no_grad():
            self.novelty.observe(states)
            before = float(self.novelty.novelty(states).mean())
        for _ in range(self.options.novelty_steps):
            rows = torch.randint(len(states), (min(512, len(states)),))
            self._descend(self.novelty_optimizer, self.novelty(states[rows]).mean(), "novelty")
        return before

    # --- learning

    def learn(self) -> dict[str, Tensor]:
        """Take a gradient step of all critics and the actor; return the losses, detached."""
        groups = self._drawable()
        places, steps = self.replay.sample(groups, max(self.options.batch // len(groups), 1))
        data = self._transitions(groups, places, steps)
        critic_loss = self._learn_critics(data)
        targets = self._climb(data)
        own = torch.tensor([OWN if group else EXPLORE for group in groups])[:, None]
        self.replay.episodes["targets"][places, steps, own.expand_as(places)] = targets
        actor_loss = self._learn_actor(data, targets)
        return {"critic_loss": critic_loss, "actor_loss": actor_loss}

    def _drawable(self) -> list[int]:
        """Return the groups in the order of the critics' slots; each mode has an episode."""
        return list(range(self.modes.number + 1))

    def _transitions(self, groups: list[int], places: Tensor, steps: Tensor) -> dict[str, Any]:
        """Return what gradient steps read of decisions ``[G, n]``."""
        episodes, options = self.replay.episodes, self.options
        observed = episodes["observed"]
        now, after = observed[places, steps], observed[places, steps + 1]
        states, next_states = self._states(now), self._states(after)
        intrinsic = self._intrinsic(states, next_states)
        own = torch.tensor([float(group > 0) for group in groups])[:, None]
        rewards = episodes["rewards"][places, steps] * own
        rewards = rewards + intrinsic * torch.where(own > 0, options.intrinsic, 1.0)
        going_on = ~episodes["terminated"][places, steps]
        place = torch.tensor([OWN if group else EXPLORE for group in groups])[:, None]
        return {
            "now": now,
            "after": after,
            "states": states,
            "next_states": next_states,
            "actions": episodes["actions"][places, steps],
            "targets": episodes["targets"][places, steps, place.expand_as(places)],
            "rewards": rewards,
            "discounts": going_on * options.gamma ** episodes["steps"][places, steps],
            "embeddings": self.modes.embeddings[groups][:, None].expand(*places.shape, -1),
            "free": (own > 0).expand_as(places),
        }

    def _intrinsic(self, states: Tensor, next_states: Tensor) -> Tensor:
        """NovelD of steps, ``[*B]``."""
        both = self.novelty.novelty(torch.stack([states, next_states]))
        return functional.novel_d(both[1], both[0], 0.5)

    def _learn_critics(self, data: dict[str, Any]) -> Tensor:
        chosen = self.actor.act(data["after"], data["embeddings"])
        wanted = self.critics.backup(
            data["rewards"], data["discounts"], data["next_states"], chosen
        )
        loss = self.critics.loss(data["states"], data["actions"], wanted)
        self._descend(self.critic_optimizer, loss, "the critics")
        self.critics.update_targets(self.options.tau)
        return loss.detach()

    def _climb(self, data: dict[str, Any]) -> Tensor:
        steps, rate = self.options.climb_steps, self.options.climb_rate
        self.critics.networks.requires_grad_(False)
        states = data["states"]
        moved = climb(
            lambda actions: self.critics.value(states, actions),
            data["targets"],
            steps=steps,
            rate=rate,
        )
        self.critics.networks.requires_grad_(True)
        return moved

    def _learn_actor(self, data: dict[str, Any], targets: Tensor) -> Tensor:
        loss = self.actor.loss(
            targets.flatten(0, 1),
            data["now"].flatten(0, 1),
            data["embeddings"].flatten(0, 1),
            data["free"].flatten(),
        )
        self._descend(self.actor_optimizer, loss, "the actor")
        self.actor.average()
        return loss.detach()

    def _descend(self, optimizer: torch.optim.Optimizer, loss: Tensor, what: str) -> None:
        where = f"{what}, after batch {self.batches}"
        descend(optimizer, loss, self.options.max_grad_norm, where)

    def _states(self, observed: Any) -> Tensor:
        """Return what critics read of entries ``[*B]``, ``[*B, S]``."""
        dims = observed.batch_dims
        return torch.cat([observed.get(key).flatten(dims) for key in self.state_keys], -1)

    # --- modes

    def find_modes(self) -> None:
        """Cluster the successes anew, and let critics begin where their modes come from."""
        sources = self.modes.update(self.replay)
        if sources is not None:
            self.critics = self.critics.rearranged(sources)
            self._renew_optimizer()
        self._fit_supports({slot for slot, source in enumerate(sources or ()) if source == 0 < slot})

    def _fit_supports(self, begun: set[int]) -> None:
        """Let each slot's atoms span the returns that were seen, and somewhat more.

        One that covers them, and is not four times as wide, stays, unless it has just begun.
        """
        for slot in range(self.critics.slots):
            seen = self._returns(slot)
            low, high = min(float(seen.min()), 0.0), max(float(seen.max()), 1e-3)
            span = MARGIN * (high - low)
            atoms = self.critics.atoms[slot]
            fits = self.critics.covers(slot, seen) and float(atoms[-1] - atoms[0]) < 4.0 * span
            if not fits or slot in begun:
                self.critics.set_support(slot, low if low == 0.0 else high - span, low + span)

    @torch.no_grad()
    def _returns(self, slot: int) -> Tensor:
        """Return what each decision of a slot's episodes went on to earn, discounted."""
        every, options = self.replay.episodes[: len(self.replay)], self.options
        if slot:
            every = every[self.replay.groups[: len(self.replay)] == slot]
        states = self._states(every["observed"])
        inside = torch.arange(every["rewards"].shape[1]) < every["length"][:, None]
        rewards = self._intrinsic(states[:, :-1], states[:, 1:]) * inside
        if slot:
            rewards = every["rewards"] + options.intrinsic * rewards
        discounts = options.gamma ** every["steps"]
        returns, earned = [], torch.zeros_like(rewards[:, 0])
        for step in reversed(range(rewards.shape[1])):
            earned = rewards[:, step] + discounts[:, step] * earned
            returns.append(earned)
        return torch.stack(returns)

    # --- saving

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes: tensors, numbers and lists."""
        optimizers = (self.actor_optimizer, self.critic_optimizer, self.novelty_optimizer)
        return {
            "actor": dict(self.actor.state_dict()),
            "critics": dict(self.critics.state_dict()),
            "slots": self.critics.slots,
            "novelty": dict(self.novelty.state_dict()),
            "modes": self.modes.state_dict(),
            "replay": self.replay.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "batches": self.batches,
            "env_steps": self.env_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        self.critics = self.critics.rearranged([0] * state["slots"])
        self._renew_optimizer()
        for name in ("actor", "critics", "novelty", "modes", "replay"):
            getattr(self, name).load_state_dict(state[name])
        optimizers = (self.actor_optimizer, self.critic_optimizer, self.novelty_optimizer)
        for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.batches, self.env_steps = state["batches"], state["env_steps"]
