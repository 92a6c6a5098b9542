"""Discovery offline: cluster episodes of the frozen base; a classifier of the clusters is q.

An online classifier trained beside a policy (the procedure of BMD, arXiv 2605.11387) finds only
as many modes as exploration by RL keeps apart. The frozen base already shows them: its episodes
are clustered on a feature of the whole episode, the classifier of the clusters is the inference
model, and it stays frozen afterwards.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from modereg import functional, keys
from modereg.discovery.base import ModeDiscoverer
from modereg.discovery.clustering import find_behaviours, kmeans
from modereg.errors import ConfigurationError
from modereg.estimators import CategoricalMI
from modereg.networks import MLP, InputNoise
from modereg.reading import require
from modereg.rollouts import Episodes

__all__ = ["ClusterModeDiscoverer"]

RESTARTS = 10
"""Starts of k-means where the number of codes is given."""

ONE_BEHAVIOUR = (
    "the base's episodes show one behaviour: no clustering of them stands out beside one bundle of "
    "the same covariance; the codes will split it, and fine-tuning without codes loses nothing; "
    "give num_codes, or a feature that tells behaviours apart, if you know of several"
)


class ClusterModeDiscoverer(ModeDiscoverer):
    """Clusters whole episodes of the base, trains q as the classifier of the clusters, freezes it.

    :meth:`observe` gathers the last feature of every finished episode; the first :meth:`update`
    after that fits. :meth:`from_episodes` does both at once, and chooses the number of codes.

    Where the feature is a :class:`~modereg.transforms.History`, q is also trained on its
    beginnings, so that it can be read in the middle of an episode (``dense`` and ``difference``).

    Args:
        feature_dim: length F of the feature.
        num_codes: K. More codes than modes do no harm (several share a mode), while two modes in
            one code can never be told apart again.
        feature_key: entry of the feature, ``[*B, F]``, in common physical units.
        latent_key: entry of the code.
        success_key: if an episode has it, only successful episodes are clustered, unless there are
            fewer than ``min_successes`` of them; None clusters all.
        noise: standard deviation of the noise on q's input in training, in feature units; None
            takes half the median distance between neighbouring centroids per dimension.
        history_length: number of entries of the History feature, 0 for any other feature.
        along_path: whether a History is read along its path, so that speed does not tell episodes
            apart; False where when something is done is the behaviour.
        hidden: widths of q.
        min_successes: see ``success_key``.
        max_episodes: at most so many episodes are clustered.
        steps: Adam steps of q.
        seed: of subsamples and k-means.

    Raises:
        ConfigurationError: if an option is out of range.
    """

    centroids: Tensor
    frozen: Tensor
    base: tuple[Episodes, dict[str, float]] | None = None
    """Episodes of the base that it was fitted to, and what :meth:`fit` said of them, for stage 1,
    which takes them away; None elsewhere."""

    def __init__(
        self,
        feature_dim: int,
        num_codes: int,
        *,
        feature_key: NestedKey = keys.HISTORY,
        latent_key: NestedKey = keys.LATENT,
        success_key: NestedKey | None = keys.SUCCESS,
        noise: float | None = None,
        history_length: int = 0,
        along_path: bool = True,
        hidden: tuple[int, ...] = (128, 128),
        min_successes: int = 200,
        max_episodes: int = 8192,
        steps: int = 800,
        seed: int = 0,
    ) -> None:
        if history_length and feature_dim % history_length:
            raise ConfigurationError(
                f"expected a feature_dim that history_length divides, got {feature_dim} and "
                f"{history_length}; History makes (length + 1) entries"
            )
        entry = feature_dim // history_length if history_length and along_path else 0
        network = InputNoise(MLP(feature_dim, num_codes, hidden), noise or 0.0, entry)
        self.estimator: CategoricalMI
        super().__init__(
            CategoricalMI(network, num_codes, in_keys=[feature_key], latent_key=latent_key)
        )
        self.feature_key, self.success_key, self.noise = feature_key, success_key, noise
        self.history_length, self.seed, self.steps = history_length, seed, steps
        self.min_successes, self.max_episodes = min_successes, max_episodes
        self.register_buffer("centroids", torch.zeros(num_codes, feature_dim))
        self.register_buffer("frozen", torch.tensor(False))
        self._network = network
        self._pending: list[tuple[Tensor, Tensor | None]] = []

    @classmethod
    def from_episodes(
        cls,
        features: Tensor,
        success: Tensor | None = None,
        *,
        num_codes: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> tuple[ClusterModeDiscoverer, dict[str, float]]:
        """Choose a number of codes, if none is given, and fit.

        Args:
            features: whole-episode features, ``[N, F]``.
            success: ``[N]`` bool, or None.
            num_codes: K, or None: one for each bundle that :func:`find_behaviours` finds. Where it
                finds a single one a warning says so: two codes then split one behaviour.
            seed: of subsamples and k-means.
            options: of the constructor.

        Returns:
            The fitted discoverer, and the metrics of :meth:`fit`.
        """
        metrics: dict[str, float] = {}
        centroids: Tensor | None = None
        if num_codes is None:
            least = options.get("min_successes", 200)
            chosen = _worth_clustering(features, success, least)[0]
            length = options.get("history_length", 0)
            if length and options.get("along_path", True):
                chosen = functional.along_path(chosen, chosen.shape[-1] // length)
            centroids = find_behaviours(chosen, seed=seed)
            metrics["suggested_modes"] = num_codes = len(centroids)
            if num_codes == 1:
                warnings.warn(ONE_BEHAVIOUR, stacklevel=2)
                centroids, num_codes = None, 2
        discoverer = cls(features.shape[-1], num_codes, seed=seed, **options)
        return discoverer, {**metrics, **discoverer.fit(features, success, centroids)}

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load a state; if it is of a fitted discoverer, q is frozen again.

        Episodes that were observed and not yet fitted are no part of a state.
        """
        loaded = super().load_state_dict(*args, **kwargs)
        if self.fitted:
            self.requires_grad_(False)
        return loaded

    @property
    def num_codes(self) -> int:
        """K."""
        return len(self.centroids)

    @property
    def fitted(self) -> bool:
        """Whether clusters have been found; from then on q is frozen."""
        return bool(self.frozen)

    def observe(self, rollout: TensorDictBase) -> None:
        """Gather the finished episodes of a rollout: rows whose ``("next", "done")`` is set.

        Raises:
            KeyMismatchError: if the feature is missing.
        """
        if self.fitted:
            return
        ended = rollout.get("next")
        done = require(ended, "done", "the discoverer").squeeze(-1)
        features = require(ended, self.feature_key, "the discoverer")[done]
        success = None if self.success_key is None else ended.get(self.success_key, None)
        solved = None if success is None else success.squeeze(-1)[done]
        self._pending.append((features.detach(), solved))

    def update(self) -> dict[str, float]:
        """Fit on what was observed, once; later calls change nothing.

        Returns:
            Metrics of the fit, see :meth:`fit`; empty when there is nothing to do.
        """
        if self.fitted or not self._pending:
            return {}
        features = torch.cat([part for part, _ in self._pending])
        labels = [solved for _, solved in self._pending if solved is not None]
        solved = torch.cat(labels) if len(labels) == len(self._pending) else None
        self._pending = []
        return self.fit(features, solved)

    def fit(
        self,
        features: Tensor,
        success: Tensor | None = None,
        centroids: Tensor | None = None,
    ) -> dict[str, float]:
        """Cluster whole-episode features and train q on the clusters.

        Args:
            features: ``[N, F]``, one row an episode.
            success: ``[N]`` bool, or None.
            centroids: of the clusters, ``[K, F]``, along the path where histories are read so; None
                finds them by k-means.

        Returns:
            num_codes, clustered episodes, those of the ``rarest`` code, input noise, silhouette,
            and on a held-out tenth the estimator's
            :meth:`~modereg.estimators.RewardEstimator.figures`; where failures are clustered too,
            ``successes_short``, as a share of the successes that would be enough.

        Raises:
            ConfigurationError: if there are too few episodes, or fewer distinct ones than codes.
        """
        chosen, only_successes = _worth_clustering(features, success, self.min_successes)
        order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(self.seed))
        chosen = chosen[order[: self.max_episodes].to(chosen.device)].to(self.centroids.device)
        seen = self._network.along_path(chosen)
        if centroids is None:
            centroids = kmeans(seen, self.num_codes, restarts=RESTARTS, seed=self.seed)
        centroids = centroids.to(seen)
        if len(centroids) != self.num_codes:
            raise ConfigurationError(
                f"expected {self.num_codes} distinct behaviours to cluster, found {len(centroids)};"
                " ask for fewer codes or name a feature that tells behaviours apart"
            )
        self.centroids.copy_(centroids)
        if self.noise is None:
            self._network.std = _input_noise(centroids)
        codes = functional.nearest_centroid(seen, centroids)
        metrics = self._train(chosen, codes)
        self.frozen.fill_(True)
        if success is not None and not only_successes:
            metrics["successes_short"] = 1.0 - float(success.sum()) / self.min_successes
        return {
            "num_codes": self.num_codes,
            "clustered_episodes": len(chosen),
            "rarest": int(torch.bincount(codes, minlength=self.num_codes).min()),
            "only_successes": float(only_successes),
            "input_noise": self._network.std,
            "silhouette": float(functional.silhouette(seen[:1500], codes[:1500])),
            **metrics,
        }

    def fit_episodes(self, episodes: Episodes) -> dict[str, float]:
        """Fit on whole episodes whose last entries have the feature; see :meth:`fit`."""
        return self.fit(episodes.final.get(self.feature_key), self._success(episodes))

    def worth_imitating(self, episodes: Episodes) -> Tensor:
        """Return which episodes are clustered, ``[N]``: the successes, or all if those are few."""
        success = self._success(episodes)
        if success is None or int(success.sum()) < self.min_successes:
            return torch.ones_like(episodes.valid[:, 0])
        return success

    def _success(self, episodes: Episodes) -> Tensor | None:
        if self.success_key is None:
            return None
        success = episodes.final.get(self.success_key, None)
        return None if success is None else success.squeeze(-1)

    def _train(self, features: Tensor, codes: Tensor) -> dict[str, float]:
        held = max(len(features) // 10, 1)
        self._network.requires_grad_(True).fit(features)
        optimizer = torch.optim.Adam(self._network.parameters(), 2e-3)
        for _ in range(self.steps):
            index = torch.randint(held, len(features), (512,), device=features.device)
            inputs = self._truncate(features[index])
            loss = functional.inference_loss(self._network(inputs, noisy=True), codes[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        self.requires_grad_(False)
        return self.estimator.figures(self._rows(features[:held], codes[:held]))

    def _rows(self, features: Tensor, codes: Tensor) -> TensorDict:
        data = TensorDict({}, [len(codes)]).set(self.feature_key, features)
        return data.set(self.latent_key, codes)

    def _truncate(self, features: Tensor) -> Tensor:
        """Cut half of the histories at a random decision, as if the episode were under way."""
        if not self.history_length:
            return features
        entries = features.unflatten(-1, (self.history_length, -1))
        (size, length), device = entries.shape[:2], entries.device
        beginnings = torch.randint(1, length, (size, 1), device=device)
        half = torch.rand(size, 1, device=device) < 0.5
        last = beginnings.where(half, length - 1)
        place = torch.minimum(torch.arange(length, device=device).expand(size, -1), last)
        return entries.gather(1, place.unsqueeze(-1).expand_as(entries)).flatten(1)


def _worth_clustering(features: Tensor, success: Tensor | None, least: int) -> tuple[Tensor, bool]:
    """Return the successful episodes, where there are enough, and whether it is only those."""
    if success is None or bool(success.all()):
        return features, success is not None
    solved = int(success.sum())
    if solved >= least:
        return features[success], True
    warnings.warn(
        f"expected at least {least} successful episodes to cluster, got {solved} of "
        f"{len(features)}: failures are clustered too, and some codes will command them; collect "
        "more episodes, or lower min_successes",
        stacklevel=4,
    )
    return features, False


def _input_noise(centroids: Tensor) -> float:
    """Half the median distance between neighbouring centroids, per dimension."""
    if len(centroids) < 2:
        return 0.0
    distances = torch.cdist(centroids, centroids).fill_diagonal_(float("inf"))
    return 0.5 * float(distances.amin(1).median()) / centroids.shape[-1] ** 0.5
