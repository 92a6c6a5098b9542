"""The interface of what discovers modes: it watches rollouts, learns a classifier, and reads it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from modereg.estimators import RewardEstimator
from modereg.priors import Prior

__all__ = ["ModeDiscoverer"]


class ModeDiscoverer(nn.Module, ABC):
    """What tells which mode a trajectory belongs to, and learns it.

    Calling it observes and returns its argument, so that it can be a collector's ``postproc``; it
    stays with the learner, and collecting processes never need it. Its ``state_dict`` holds plain
    tensors, numbers and lists, and restores what it has learned bit for bit.

    Args:
        estimator: q with its prior, of any kind; what :class:`~modereg.transforms.MIReward` takes.
    """

    def __init__(self, estimator: RewardEstimator) -> None:
        super().__init__()
        self.estimator = estimator

    @property
    def prior(self) -> Prior:
        """p(z)."""
        return self.estimator.prior

    @property
    def feature_keys(self) -> list[NestedKey]:
        """Entries that q reads, of the estimator's ``source``."""
        return self.estimator.in_keys

    @property
    def latent_key(self) -> NestedKey:
        """Entry of the code, of the root."""
        return self.estimator.latent_key

    @abstractmethod
    def observe(self, rollout: TensorDictBase) -> None:
        """Take in data.

        Args:
            rollout: ``[B, T]`` transitions with the code in the root and the features in ``next``,
                or a flat ``[N]`` of them.

        Raises:
            KeyMismatchError: if an entry is missing.
            ConfigurationError: if a code lies outside the prior's support.
        """

    @abstractmethod
    def update(self) -> dict[str, float]:
        """Learn from what was observed, and return metrics."""

    def log_prob(self, tensordict: TensorDictBase) -> Tensor:
        """Return log q(. | s) of every discrete code, ``[*B, K]`` nats; features in the root."""
        return self.estimator.log_prob(tensordict)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Observe a rollout and return it."""
        self.observe(tensordict)
        return tensordict
