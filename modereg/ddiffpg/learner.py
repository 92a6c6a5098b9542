"""DDiffPG's learner: whole trajectories in, critics of modes, target actions, a diffusion actor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict
from torch import Tensor

from modereg import functional
from modereg.ddiffpg.actor import Change, Commanded, ModeActor
from modereg.ddiffpg.collecting import EpisodeCollector, random_chunks, states_of
from modereg.ddiffpg.critics import ModeCritics
from modereg.ddiffpg.modes import ModeTable, paths_of
from modereg.ddiffpg.options import DDiffPGOptions
from modereg.ddiffpg.replay import TrajectoryReplay, own_place
from modereg.ddiffpg.targets import climb
from modereg.learners.base import descend
from modereg.novelty import RandomNetworkDistillation

__all__ = ["DDiffPG"]

ALPHA = 0.5
"""Of NovelD, as in DDiffPG."""

MARGIN, WIDE = 1.25, 4.0
"""How far a support reaches beyond the returns that were seen, and how many times too wide it may
be before it is narrowed."""

NOVELTY_ROWS = 512
"""States of a gradient step of the novelty's predictor."""


class DDiffPG:
    """Learns several behaviours from nothing (DDiffPG, arXiv 2406.00681).

    Call :meth:`collect`, :meth:`learn` as often as there is time, and :meth:`find_modes` now and
    then. Everything that it draws comes from the global generators, and environments are seeded for
    each batch: what :meth:`state_dict` returned goes on to the same numbers.

    Args:
        collector: plays episodes.
        actor: what acts.
        critics: of the modes, with slot 0 for exploration.
        novelty: tells what is new, of ``state_keys``.
        modes: the table of modes.
        replay: of trajectories.
        state_keys: what critics and novelty read.
        options: see :class:`~modereg.ddiffpg.options.DDiffPGOptions`.
    """

    def __init__(
        self,
        collector: EpisodeCollector,
        actor: ModeActor,
        critics: ModeCritics,
        novelty: RandomNetworkDistillation,
        modes: ModeTable,
        replay: TrajectoryReplay,
        *,
        state_keys: Sequence[NestedKey],
        options: DDiffPGOptions | None = None,
    ) -> None:
        self.collector, self.actor, self.critics, self.novelty = collector, actor, critics, novelty
        self.modes, self.replay, self.state_keys = modes, replay, list(state_keys)
        self.options = options or DDiffPGOptions()
        rates = self.options.actor_rate, self.options.critic_rate
        self.actor_optimizer = torch.optim.Adam(actor.policy.parameters(), rates[0])
        self.novelty_optimizer = torch.optim.Adam(novelty.predictor.parameters(), rates[1])
        self._renew_optimizer()

    def _renew_optimizer(self) -> None:
        parameters, rate = self.critics.networks.parameters(), self.options.critic_rate
        self.critic_optimizer = torch.optim.Adam(parameters, rate)

    # --- collecting

    def prefill(self, batches: int) -> None:
        """Keep batches of random episodes, and scale what critics read by them."""
        for _ in range(batches):
            kept = self.collector.play(random_chunks(self.actor.box))
            none = torch.zeros(len(kept), dtype=torch.int64)
            self.replay.extend(kept.set("pure", none == 0), none)
            self._learn_novelty(kept)
        states = self._inside(self.replay.episodes[: len(self.replay)])
        self.critics.features.fit(states)
        self._fit_supports(set())

    def collect(self) -> dict[str, float]:
        """Play an episode in each row, some to explore and some by command, and keep them.

        Returns:
            Success of those that explored and of the commanded, and novelty.
        """
        first, later, when = self._commands(self.collector.rows)
        exploring, options, embeddings = first == 0, self.options, self.modes.embeddings
        noise = torch.where(exploring, options.explore_noise, options.command_noise)
        change = Change(embeddings[later], when)
        kept = self.collector.play(Commanded(self.actor, embeddings[first], noise, change))
        pure = (first == later) | (kept["length"] <= when)
        groups = torch.where(pure, first, later)
        rows = (kept.get("success") & pure).nonzero().squeeze(-1)
        groups[rows] = self.modes.modes_of(paths_of(kept, rows))
        self.replay.extend(kept.set("pure", pure), groups)
        solved = kept.get("success").float()
        parts = {"explored": solved[exploring], "commanded": solved[~exploring & pure]}
        success = {
            f"{name}_success": float(part.mean()) for name, part in parts.items() if len(part)
        }
        return success | {"novelty": self._learn_novelty(kept)}

    def _commands(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the modes that rows show first and later, and from which decision on, ``[size]``.

        0 explores, to the end.
        """
        number = self.modes.number
        when = torch.randint(1, max(self.collector.max_decisions // 2, 1) + 1, (size,))
        whole, rest = divmod(self.options.explore * size, 1.0)
        explorers = int(whole) + int(rest > 0.0 and float(torch.rand(())) < rest)
        explorers = explorers if number else size
        turn = self.collector.batches + torch.arange(size - explorers)
        none = torch.zeros(explorers, dtype=torch.int64)
        first = torch.cat([none, 1 + turn % max(number, 1)])
        other = 1 + (first - 1 + torch.randint(1, max(number, 2), (size,))) % max(number, 1)
        changes = (first > 0) & (torch.rand(size) < self.options.switch)
        return first, torch.where(changes, other, first), when

    def _inside(self, kept: TensorDict) -> Tensor:
        """Return the states of episodes, ``[n, S]``, without padding."""
        observed = kept["observed"]
        inside = torch.arange(observed.shape[1]) <= kept["length"][:, None]
        return self._states(observed)[inside]

    def _learn_novelty(self, kept: TensorDict) -> float:
        """Let the novelty's predictor learn states, and return their mean novelty before."""
        states = self._inside(kept)
        with torch.no_grad():
            self.novelty.observe(states)
        before = float(self.novelty.novelty(states).mean())
        for _ in range(self.options.novelty_steps):
            rows = torch.randint(len(states), (min(NOVELTY_ROWS, len(states)),))
            self._descend(self.novelty_optimizer, self.novelty(states[rows]).mean(), "novelty")
        return before

    # --- learning

    def learn(self) -> dict[str, Tensor]:
        """Take a gradient step of all critics and the actor; return the losses, detached."""
        groups = torch.arange(self.modes.number + 1)
        size = max(self.options.batch // len(groups), 1)
        places, steps = self.replay.sample(groups.tolist(), size)
        data = self._transitions(groups, places, steps)
        critic_loss = self._learn_critics(data)
        targets = self._climb(data["states"], data["targets"])
        self.replay.episodes["targets"][places, steps, own_place(groups, places)] = targets
        return {"critic_loss": critic_loss, "actor_loss": self._learn_actor(data, targets)}

    def _transitions(self, groups: Tensor, places: Tensor, steps: Tensor) -> dict[str, Any]:
        """Return what gradient steps read of decisions ``[G, n]``."""
        episodes, options = self.replay.episodes, self.options
        now, after = (episodes["observed"][places, steps + ahead] for ahead in (0, 1))
        states, next_states = self._states(now), self._states(after)
        mode = (groups > 0)[:, None].expand_as(places)
        earned = episodes["rewards"][places, steps] * mode
        weight = torch.where(mode, options.intrinsic, 1.0)
        going_on = ~episodes["terminated"][places, steps]
        return {
            "now": now,
            "after": after,
            "states": states,
            "next_states": next_states,
            "actions": episodes["actions"][places, steps],
            "targets": episodes["targets"][places, steps, own_place(groups, places)],
            "rewards": earned + weight * self._intrinsic(states, next_states),
            "discounts": going_on * options.gamma ** episodes["steps"][places, steps],
            "embeddings": self.modes.embeddings[groups][:, None].expand(*places.shape, -1),
            "mode": mode,
        }

    def _intrinsic(self, states: Tensor, next_states: Tensor) -> Tensor:
        """Return NovelD of steps, ``[*B]``."""
        before, after = self.novelty.novelty(torch.stack([states, next_states]))
        return functional.novel_d(after, before, ALPHA)

    def _learn_critics(self, data: dict[str, Any]) -> Tensor:
        chosen = self.actor.act(data["after"], data["embeddings"])
        earned = data["rewards"], data["discounts"]
        wanted = self.critics.backup(*earned, data["next_states"], chosen)
        loss = self.critics.loss(data["states"], data["actions"], wanted)
        self._descend(self.critic_optimizer, loss, "the critics")
        self.critics.update_targets(self.options.tau)
        return loss.detach()

    def _climb(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return target actions ``[G, n, C]`` that are higher up the critics of their slots."""
        steps, rate = self.options.climb_steps, self.options.climb_rate
        self.critics.networks.requires_grad_(False)
        moved = climb(
            lambda actions: self.critics.value(states, actions), targets, steps=steps, rate=rate
        )
        self.critics.networks.requires_grad_(True)
        return moved

    def _learn_actor(self, data: dict[str, Any], targets: Tensor) -> Tensor:
        parts = (targets, data["now"], data["embeddings"], data["mode"])
        loss = self.actor.loss(*(part.flatten(0, 1) for part in parts))
        self._descend(self.actor_optimizer, loss, "the actor")
        self.actor.average()
        return loss.detach()

    def _descend(self, optimizer: torch.optim.Optimizer, loss: Tensor, what: str) -> None:
        where = f"{what}, after batch {self.collector.batches}"
        descend(optimizer, loss, self.options.max_grad_norm, where)

    def _states(self, observed: Any) -> Tensor:
        return states_of(observed, self.state_keys)

    # --- modes

    def find_modes(self) -> None:
        """Cluster the successes anew, and let critics begin where their modes come from."""
        sources = self.modes.update(self.replay)
        begun: set[int] = set()
        if sources is not None:
            self.critics = self.critics.rearranged(sources)
            self._renew_optimizer()
            begun = {slot for slot, source in enumerate(sources) if slot and not source}
        self._fit_supports(begun)

    def _fit_supports(self, begun: set[int]) -> None:
        """Let each slot's atoms span the returns that were seen, and somewhat more.

        One that covers them, and is not far too wide, stays, unless it has just begun.
        """
        for slot in range(self.critics.slots):
            seen, atoms = self._returns(slot), self.critics.atoms[slot]
            low, high = min(float(seen.min()), 0.0), max(float(seen.max()), 1e-3)
            span = MARGIN * (high - low)
            fits = self.critics.covers(slot, seen) and float(atoms[-1] - atoms[0]) < WIDE * span
            if slot in begun or not fits:
                self.critics.set_support(slot, low if low == 0.0 else high - span, low + span)

    @torch.no_grad()
    def _returns(self, slot: int) -> Tensor:
        """Return what decisions of a slot's episodes went on to earn, discounted, ``[T, n]``."""
        episodes, options = self.replay.episodes[: len(self.replay)], self.options
        if slot:
            episodes = episodes[self.replay.groups[: len(self.replay)] == slot]
        states, steps = self._states(episodes["observed"]), episodes["steps"]
        inside = torch.arange(steps.shape[1]) < episodes["length"][:, None]
        rewards = self._intrinsic(states[:, :-1], states[:, 1:]) * inside
        if slot:
            rewards = episodes["rewards"] + options.intrinsic * rewards
        returns, earned = [], torch.zeros_like(rewards[:, 0])
        for step in reversed(range(rewards.shape[1])):
            earned = rewards[:, step] + options.gamma ** steps[:, step] * earned
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
            "batches": self.collector.batches,
            "env_steps": self.collector.env_steps,
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
        self.collector.batches = state["batches"]
        self.collector.env_steps = state["env_steps"]
