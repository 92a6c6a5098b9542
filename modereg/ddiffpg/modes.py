"""The modes that are known: their clusters, their embeddings, and who they were before."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.ddiffpg.clustering import PathClusters
from modereg.ddiffpg.matching import match_clusters
from modereg.ddiffpg.replay import TrajectoryReplay
from modereg.errors import ConfigurationError

__all__ = ["ModeTable", "paths_of"]


class ModeTable:
    """Numbers modes from 1, and gives each an embedding that it keeps for as long as it is found.

    Number 0 is exploration, with an embedding of its own; zeros stand for no command.

    Args:
        clusters: tells trajectories apart.
        embedding_dim: length D of an embedding.
        most: modes; of more clusters the smallest are left to exploration.
        paths: trajectories that are clustered at most.

    Raises:
        ConfigurationError: if an option is below 1.
    """

    def __init__(
        self, clusters: PathClusters, *, embedding_dim: int = 8, most: int = 24, paths: int = 384
    ) -> None:
        if min(embedding_dim, most, paths) < 1:
            raise ConfigurationError(
                "expected embedding_dim, most and paths of at least 1, got "
                f"{embedding_dim}, {most} and {paths}"
            )
        self.clusters, self.most, self.paths = clusters, most, paths
        self.embeddings = _fresh(1, embedding_dim)

    @property
    def number(self) -> int:
        """Number M of modes."""
        return len(self.embeddings) - 1

    def modes_of(self, paths: list[Tensor]) -> Tensor:
        """Return the mode of each successful path, ``[n]`` int64 from 1, 0 where there is none."""
        return self.clusters.assign(paths) + 1

    def update(self, replay: TrajectoryReplay) -> list[int] | None:
        """Cluster the successes anew, match, and give every episode its mode.

        A cluster that was a mode stays that mode; one that split off begins as a copy of where it
        came from, with an embedding of its own; one from nowhere begins as exploration. Failures
        stay with the mode that they were commanded to show, and else with none.

        Returns:
            For each number from 0 the one that it begins as, or None where nothing changed.
        """
        places = replay.successes(self.paths)
        if not len(places):
            return None
        paths = paths_of(replay.episodes, places)
        labels = self.clusters.fit(replay.numbers[places].tolist(), paths)
        labels = self._largest(labels)
        old = replay.groups[places] - 1
        found = labels >= 0
        matching = match_clusters(old[found], labels[found], self.number)
        sources = [0, *(matching.origin + 1).tolist()]
        before, kept = self.embeddings, [0, *(matching.kept + 1).tolist()]
        fresh = _fresh(len(kept), before.shape[-1])
        known = torch.tensor([number > 0 or place == 0 for place, number in enumerate(kept)])
        self.embeddings = torch.where(known[:, None], before[kept], fresh)
        self._regroup(replay, kept, places, labels + 1)
        same = kept == list(range(len(before)))
        return None if same else sources

    def _largest(self, labels: Tensor) -> Tensor:
        """Return labels without gaps of the largest clusters, the others' being -1."""
        sizes = torch.bincount(labels[labels >= 0])
        order = sizes.argsort(descending=True, stable=True)[: self.most].sort().values
        renamed = torch.full_like(sizes, -1)
        renamed[order] = torch.arange(len(order))
        self.clusters.representatives = [self.clusters.representatives[k] for k in order.tolist()]
        return torch.where(labels >= 0, renamed[labels], -1)

    def _regroup(
        self, replay: TrajectoryReplay, kept: list[int], places: Tensor, modes: Tensor
    ) -> None:
        """Give all episodes the numbers of now: those that were clustered, and the others."""
        renumbered = torch.zeros(max([*kept, int(replay.groups.max())]) + 1, dtype=torch.int64)
        for now, before in enumerate(kept):
            if before:
                renumbered[before] = now
        replay.groups = renumbered[replay.groups]
        rest = replay.solved()
        rest[places] = False
        others = rest.nonzero().squeeze(-1)
        replay.regroup(places, modes)
        if len(others):
            replay.regroup(others, self.modes_of(paths_of(replay.episodes, others)))

    def state_dict(self) -> dict[str, object]:
        """Return everything that changes."""
        return {
            "embeddings": self.embeddings.clone(),
            "representatives": self.clusters.representatives,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take up a state of :meth:`state_dict`."""
        self.embeddings = state["embeddings"]  # type: ignore[assignment]
        self.clusters.restore(state["representatives"])  # type: ignore[arg-type]


def paths_of(episodes: TensorDictBase, places: Tensor) -> list[Tensor]:
    """Return the paths of episodes, ``[T + 1, d]`` each, of as many points as they have."""
    found = episodes[places]
    points, lengths = found.get("path"), found.get("length").tolist()
    return [path[: length + 1].clone() for path, length in zip(points, lengths)]


def _fresh(number: int, dim: int) -> Tensor:
    """Draw embeddings, ``[number, D]``, of length sqrt(D), so that none is near the zeros."""
    drawn = torch.randn(number, dim)
    return drawn / drawn.norm(dim=-1, keepdim=True) * dim**0.5
