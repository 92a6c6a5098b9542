"""Going on by another mode where the commanded one does not get through."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg import keys
from modereg.ddiffpg.actor import Commanded, ModeActor
from modereg.errors import ConfigurationError

__all__ = ["Replanning", "usual_progress"]

STUCK = 0.25
"""Share of the usual progress below which a row counts as stuck."""


def usual_progress(paths: Sequence[Tensor], patience: int) -> float:
    """Return how far paths ``[T, d]`` come in some decisions: the median, in their units.

    Raises:
        ConfigurationError: if no path has so many.
    """
    gone = [(path[patience:] - path[:-patience]).norm(dim=-1) for path in paths]
    every = torch.cat(gone) if gone else torch.zeros(0)
    if not len(every):
        raise ConfigurationError(f"expected a path of more than {patience} decisions, got none")
    return float(every.median())


class Replanning(Commanded):
    """Commands a mode, and where a row no longer gets on, another that it has not tried yet.

    A row is stuck where its place, the newest entry of its history, has moved less than a quarter
    of what is usual in so many decisions. When all modes were tried, all may be again.

    Args:
        actor: what plays.
        embeddings: of the modes, ``[M, D]``, at least two.
        first: mode that each row begins with, ``[B]`` int64 from 0.
        usual: see :func:`usual_progress`.
        dims: length of an entry of the history.
        patience: decisions.

    Raises:
        ConfigurationError: if there is a single mode, or ``usual`` is not above 0.
    """

    def __init__(
        self,
        actor: ModeActor,
        embeddings: Tensor,
        first: Tensor,
        usual: float,
        *,
        dims: int = 2,
        patience: int = 2,
    ) -> None:
        if len(embeddings) < 2 or not usual > 0 or patience < 1:
            raise ConfigurationError(
                "expected two modes, a usual progress above 0 and patience of at least 1, got "
                f"{len(embeddings)}, {usual} and {patience}"
            )
        super().__init__(actor, embeddings[first])
        self.modes, self.mode = embeddings, first.clone()
        self.usual, self.dims, self.patience = usual, dims, patience
        self.tried = torch.nn.functional.one_hot(first, len(embeddings)).bool()
        self.changes = torch.zeros_like(first)
        self._places: list[Tensor] = []
        self._since = torch.zeros_like(first)

    def command(self, tensordict: TensorDictBase) -> Tensor:
        """Return what is commanded at this decision, ``[B, D]``."""
        self._places.append(tensordict.get(keys.HISTORY)[..., -self.dims :])
        if len(self._places) > self.patience:
            before = self._places.pop(0)
            gone = (self._places[-1] - before).norm(dim=-1)
            stuck = (gone < STUCK * self.usual) & (self._since >= self.patience)
            self._change(stuck.nonzero().squeeze(-1))
        self._since += 1
        return self.modes[self.mode]

    def _change(self, rows: Tensor) -> None:
        for row in rows.tolist():
            if bool(self.tried[row].all()):
                self.tried[row] = False
                self.tried[row, self.mode[row]] = True
            others = (~self.tried[row]).nonzero().squeeze(-1)
            self.mode[row] = others[torch.randint(len(others), ())]
            self.tried[row, self.mode[row]] = True
            self.changes[row] += 1
            self._since[row] = 0
