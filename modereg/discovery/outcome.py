"""The outcome model: what an episode leads to after a chunk is played, in action space."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from modereg.discovery.chunk_features import ChunkFeatures
from modereg.networks import Ensemble, FourierFeatures
from modereg.reading import require

__all__ = ["OutcomeData", "OutcomeModel"]

LOOKS = 12
"""How often a fit looks at what is held out."""

HELD = 0.15
"""Share of the episodes that is held out of a fit."""

WIDE, LONG, CELLS = 512, 16, 8
"""An entry of more numbers than the first is averaged, along dimensions longer than the second, to
the third."""

MOST_OCTAVES = 64
"""Length of an observation up to which sines of it are features too."""

MOST_HELD = 4096


def observe(rows: TensorDictBase, observation_keys: Sequence[NestedKey]) -> Tensor:
    """Return entries of rows ``[n]`` side by side, flat, in single precision: ``[n, d]``.

    Images are averaged to 8 by 8, in whichever order their dimensions are.
    """
    values = [require(rows, key, "the outcome model") for key in observation_keys]
    return torch.cat([_small(value.float()).flatten(1) for value in values], -1)


def _small(value: Tensor) -> Tensor:
    """Return an entry ``[n, ...]``, its long dimensions averaged to few if it is wide."""
    if value[0].numel() <= WIDE:
        return value
    for dim in range(1, value.ndim):
        if value.shape[dim] > LONG:
            moved = value.movedim(dim, -1)
            flat = moved.reshape(len(value), -1, value.shape[dim])
            pooled = nn.functional.adaptive_avg_pool1d(flat, CELLS)
            value = pooled.reshape(*moved.shape[:-1], CELLS).movedim(-1, dim)
    return value


@dataclass
class OutcomeData:
    """Decisions with what their episodes led to.

    Attributes:
        observations: ``[n, d]``.
        features: of the played chunks, ``[n, k]``.
        players: who plays the rest of the episode, ``[n]``: a code, or K for the base.
        outcomes: ``[n]``: the code that the episode reached, with success, or K for the rest.
        episodes: number of the episode, ``[n]``.
    """

    observations: Tensor
    features: Tensor
    players: Tensor
    outcomes: Tensor
    episodes: Tensor


class OutcomeModel(nn.Module):
    r"""log Q(y | s, a, c): which outcome y a chunk a, played in s, leads to if c plays on.

    Outcomes are the K codes, reached with success, and whatever else, K. Players are the codes, and
    K for the base. It is learned from whole episodes by maximum likelihood: a Monte-Carlo critic of
    all codes at once, in action space, so that neither the noise nor its dimension matters.

    Args:
        num_codes: K.
        observation_keys: entries that make up the observation, each ``[*B, ...]``.
        observations: what is standardised by, ``[n, d]``, of :meth:`observe`.
        chunks: the base's played chunks at them, ``[n, e, A]``; their :class:`ChunkFeatures` are
            what the model reads.
        members: networks of the ensemble, whose log-probabilities are averaged.
        hidden: widths of each.
        octaves: of the observation's :class:`~modereg.networks.FourierFeatures`.
    """

    def __init__(
        self,
        num_codes: int,
        observation_keys: Sequence[NestedKey],
        observations: Tensor,
        chunks: Tensor,
        *,
        members: int = 3,
        hidden: Sequence[int] = (128, 128),
        octaves: int = 3,
    ) -> None:
        super().__init__()
        self.num_codes, self.observation_keys = num_codes, list(observation_keys)
        self.chunk_features = ChunkFeatures(observations, chunks)
        size = observations.shape[-1]
        self.observation_features = FourierFeatures(size, octaves if size <= MOST_OCTAVES else 0)
        self.observation_features.fit(observations)
        size = self.observation_features.out_features + self.chunk_features.out_features
        self.networks = Ensemble(members, [size + num_codes + 1, *hidden, num_codes + 1])

    @property
    def base(self) -> int:
        """The base as a player, and the outcome of whatever reaches no code: K."""
        return self.num_codes

    def observe(self, rows: TensorDictBase) -> Tensor:
        """Return the observations ``[n, d]`` of rows ``[n]``, flat, in single precision."""
        return observe(rows, self.observation_keys)

    def _inputs(self, observations: Tensor, features: Tensor, players: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(players, self.num_codes + 1).to(features.dtype)
        return torch.cat([self.observation_features(observations), features, one_hot], -1)

    def log_prob(self, observations: Tensor, features: Tensor, players: Tensor) -> Tensor:
        """Return the log-probabilities of each member, ``[E, N, K + 1]`` nats.

        Args:
            observations: ``[N, d]``.
            features: of chunks, ``[N, k]``, from :attr:`chunk_features`.
            players: ``[N]`` int64.
        """
        return self.networks(self._inputs(observations, features, players)).log_softmax(-1)

    def fit(
        self,
        data: OutcomeData,
        steps: int,
        *,
        learning_rate: float = 2e-3,
        batch_size: int = 256,
        weight_decay: float = 1e-3,
    ) -> dict[str, float]:
        """Fit by maximum likelihood; each member keeps the weights that were best held out.

        Whole episodes are held out: of one episode, all decisions have one outcome.

        Returns:
            ``outcome_nll``, held-out cross-entropy of the mean probability, nats, and
            ``class_share_nll``, that of the shares of the outcomes, which knows no observation.
        """
        fitted, held = self._split(data.episodes)
        with torch.no_grad():
            inputs = self._inputs(data.observations, data.features, data.players)
        judged, outcomes = inputs[held], data.outcomes[held]
        members = len(self.networks.weights[0])
        parameters = list(self.networks.parameters())
        self.networks.requires_grad_(True)
        optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, max(steps, 1), learning_rate / 10
        )
        best = torch.full((members,), torch.inf, device=inputs.device)
        kept = copy.deepcopy(self.networks.state_dict())
        for step in range(steps):
            drawn = torch.randint(len(fitted), (members, batch_size), device=inputs.device)
            rows = fitted[drawn]
            logits = self.networks(inputs[rows])
            loss = (
                nn.functional.cross_entropy(logits.flatten(0, 1), data.outcomes[rows].flatten())
                * members
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            if (step + 1) % max(steps // LOOKS, 1) == 0 or step + 1 == steps:
                self._keep_best(judged, outcomes, best, kept)
        self.networks.load_state_dict(kept)
        self.networks.requires_grad_(False)
        return self._figures(judged, outcomes, data.outcomes[fitted])

    def _split(self, episodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows to fit and rows to judge by, of different episodes."""
        names = episodes.unique()
        apart = names[torch.randperm(len(names), device=names.device)[: int(HELD * len(names))]]
        held = torch.isin(episodes, apart)
        rows = held.nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), device=rows.device)[:MOST_HELD]]
        return (~held).nonzero()[:, 0], rows

    @torch.no_grad()
    def _keep_best(
        self, inputs: Tensor, outcomes: Tensor, best: Tensor, kept: dict[str, Tensor]
    ) -> None:
        """Take over the weights of the members that have become better than ever."""
        log_prob = self.networks(inputs).log_softmax(-1)
        index = outcomes.expand(len(log_prob), -1).unsqueeze(-1)
        loss = -log_prob.gather(-1, index).squeeze(-1).mean(-1)
        better = loss < best
        best.copy_(torch.where(better, loss, best))
        for name, value in self.networks.state_dict().items():
            kept[name][better] = value[better]

    @torch.no_grad()
    def _figures(self, inputs: Tensor, outcomes: Tensor, seen: Tensor) -> dict[str, float]:
        log_prob = self.networks(inputs).log_softmax(-1).logsumexp(0)
        log_prob = log_prob - log_prob.logsumexp(-1, keepdim=True)
        counts = torch.bincount(seen, minlength=self.num_codes + 1).to(log_prob).clamp_min(0.5)
        shares = (counts / counts.sum()).log().expand_as(log_prob)
        return {
            "outcome_nll": float(nn.functional.nll_loss(log_prob, outcomes)),
            "class_share_nll": float(nn.functional.nll_loss(shares, outcomes)),
        }
