"""The interface of discoverers."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import nn

from modereg.discovery.base import ModeDiscoverer
from modereg.estimators import CategoricalMI


class Counter(ModeDiscoverer):
    """Counts what it observed."""

    def __init__(self) -> None:
        super().__init__(CategoricalMI(nn.Linear(2, 3), 3, in_keys=[("a", "x")], latent_key="z"))
        self.rows = 0

    def observe(self, rollout: TensorDictBase) -> None:
        self.rows += rollout.numel()

    def update(self) -> dict[str, float]:
        return {"rows": float(self.rows)}


def test_calling_observes_and_returns_the_very_rollout() -> None:
    discoverer, rollout = Counter(), TensorDict({}, [3, 4])
    assert discoverer(rollout) is rollout
    assert discoverer.update() == {"rows": 12.0}


def test_it_shows_its_estimator() -> None:
    discoverer = Counter()
    assert discoverer.prior is discoverer.estimator.prior
    assert discoverer.feature_keys == [("a", "x")]
    assert discoverer.latent_key == "z"
    td = TensorDict({"a": {"x": torch.randn(5, 2)}}, [5])
    torch.testing.assert_close(discoverer.log_prob(td), discoverer.estimator.log_prob(td))
    assert list(discoverer.state_dict()) == [
        "estimator.network.module.weight",
        "estimator.network.module.bias",
    ]


def test_it_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        ModeDiscoverer(CategoricalMI(nn.Linear(2, 3), 3))
