"""A replay of whole trajectories, of which each belongs to a mode, or to none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from modereg.errors import ConfigurationError

__all__ = ["TrajectoryReplay", "own_place"]

EXPLORE, OWN = 0, 1
"""Places of a decision's two target actions: that of exploration, and that of its mode."""


class TrajectoryReplay:
    """Keeps episodes with the target actions of their decisions, and draws from each mode alike.

    A full replay gives up the oldest episode of its largest group, so that what is collected of one
    mode does not crowd out another: rare successes stay.

    Attributes:
        episodes: ``[capacity]``, of which the first ``len(self)`` are filled.
        groups: mode of each, ``[capacity]`` int64 from 1, 0 for none.
        numbers: when it came, ``[capacity]`` int64, which no other ever has.

    Args:
        capacity: of episodes.

    Raises:
        ConfigurationError: if there is room for none.
    """

    episodes: TensorDict

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ConfigurationError(f"expected room for at least 1 episode, got {capacity}")
        self.capacity, self.came = capacity, 0
        self.groups = torch.zeros(capacity, dtype=torch.int64)
        self.numbers = torch.full((capacity,), -1, dtype=torch.int64)
        self._size = 0

    def __len__(self) -> int:
        """Return the number of episodes in it."""
        return self._size

    def extend(self, episodes: TensorDict, groups: Tensor) -> None:
        """Add episodes ``[n]`` of groups ``[n]``.

        Args:
            episodes: with ``length`` int64, ``success`` bool, ``pure`` bool, whether a single mode
                was commanded, and ``actions`` ``[n, T, C]``, which are the first target actions
                too; what else there is, is kept.
            groups: int64, 0 for none.
        """
        targets = torch.stack([episodes.get("actions")] * 2, 2)
        episodes = episodes.clone(recurse=False).set("targets", targets)
        if not self._size:
            self.episodes = episodes[:1].expand(self.capacity).clone()
        for row, group in enumerate(groups.tolist()):
            place = self._place(group)
            self.episodes[place] = episodes[row]
            self.groups[place], self.numbers[place] = group, self.came
            self.came += 1

    def _place(self, group: int) -> int:
        """Return where an episode of a group is to stand."""
        if self._size < self.capacity:
            self._size += 1
            return self._size - 1
        counts = torch.bincount(self.groups, minlength=group + 1)
        counts[group] += 1
        candidates = self.groups == counts.argmax()
        failed = candidates & ~self.episodes["success"]
        candidates = failed if bool(failed.any()) else candidates  # rare successes stay
        return int(self.numbers.masked_fill(~candidates, self.came).argmin())

    def regroup(self, rows: Tensor, groups: Tensor) -> None:
        """Give episodes other groups; target actions of those that change begin anew.

        Args:
            rows: places ``[n]``.
            groups: ``[n]`` int64.
        """
        changed = rows[self.groups[rows] != groups]
        targets = self.episodes.get("targets")
        targets[changed, :, OWN] = self.episodes.get("actions")[changed]
        self.groups[rows] = groups

    def successes(self, most: int) -> Tensor:
        """Return the places of pure successes, ``[n]``, the latest of each group alike."""
        places = self.solved().nonzero().squeeze(-1)
        if len(places) <= most:
            return places
        groups, numbers = self.groups[places], self.numbers[places]
        order = numbers.argsort(descending=True)
        rank = torch.zeros_like(order)
        for group in groups.unique():
            mine = order[groups[order] == group]
            rank[mine] = torch.arange(len(mine))
        chosen = (rank * (self.came + 1) - numbers).argsort()[:most]
        return places[chosen].sort().values

    def solved(self) -> Tensor:
        """Return which episodes succeeded, by one mode or by exploring, ``[len(self)]`` bool."""
        return (self.episodes.get("success") & self.episodes.get("pure"))[: self._size]

    def sample(self, groups: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
        """Draw decisions of each group alike; of group 0, from all episodes.

        Args:
            groups: G of them, each with an episode.
            size: n of each.

        Returns:
            Places and decisions, ``[G, n]`` int64 each.
        """
        lengths = self.episodes.get("length")[: self._size]
        drawn = []
        for group in groups:
            there = torch.ones_like(lengths, dtype=torch.bool)
            if group:
                there = self.groups[: self._size] == group
            weights = (lengths * there).double()
            if not bool(weights.any()):
                raise ConfigurationError(f"expected an episode of group {group} to draw, got none")
            drawn.append(_draw(weights, size))
        places = torch.stack(drawn)
        steps = (torch.rand(places.shape) * lengths[places]).long()
        return places, steps.clamp_max(lengths[places] - 1)

    def state_dict(self) -> dict[str, object]:
        """Return everything that changes: tensors and numbers."""
        filled = self.episodes[: self._size].clone().to_dict() if self._size else {}
        return {
            "episodes": filled,
            "groups": self.groups.clone(),
            "numbers": self.numbers.clone(),
            "came": self.came,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take up a state of :meth:`state_dict`."""
        self.groups, self.numbers = state["groups"].clone(), state["numbers"].clone()  # type: ignore[attr-defined]
        self.came = int(state["came"])  # type: ignore[call-overload]
        filled: dict[str, object] = state["episodes"]  # type: ignore[assignment]
        self._size = 0
        if filled:
            episodes = TensorDict(filled).auto_batch_size_(1)
            for value in episodes.values():
                if isinstance(value, TensorDictBase):  # of episodes and decisions
                    value.auto_batch_size_(2)
            self._size = len(episodes)
            self.episodes = episodes[:1].expand(self.capacity).clone()
            self.episodes[: self._size] = episodes


def _draw(weights: Tensor, size: int) -> Tensor:
    """Draw rows in proportion to weights ``[N]``."""
    ends = weights.cumsum(0)
    return torch.searchsorted(ends, torch.rand(size, dtype=ends.dtype) * ends[-1], right=True)


def own_place(groups: Tensor, places: Tensor) -> Tensor:
    """Return which of a decision's two targets is that of a slot, ``[G, n]``, of groups ``[G]``."""
    return torch.where(groups > 0, OWN, EXPLORE)[:, None].expand_as(places)
