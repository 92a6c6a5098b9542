"""The README's code runs, and each of its uses has at most fifteen lines."""

from __future__ import annotations

import re
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.envs import Compose, TransformedEnv
from torchrl.objectives import ClipPPOLoss

from modereg import (
    ClusterModeDiscoverer,
    Layout,
    VariationalModeDiscoverer,
    discover_modes,
    testing,
)
from modereg.discovery import GuidedDiscovery
from modereg.estimators import CategoricalMI
from modereg.learners.base import advantage_estimator
from modereg.networks import MLP
from modereg.priors import CategoricalPrior
from modereg.tasks import Avoid
from modereg.testing import TinyPolicy
from modereg.testing.strategies import tensordicts
from modereg.transforms import ActionChunk, History, LatentConditioner, MIReward, NoiseAction
from modereg_integrations.diffusers import DiffusersPolicy

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
SMALLER = {"policy, layout)": "policy, layout, episodes=512)"}
"""Budgets that the tests lower; nothing else of the code is changed."""


def code(position: int) -> str:
    text = BLOCKS[position]
    for large, small in SMALLER.items():
        text = text.replace(large, small)
    return text


@pytest.fixture
def policy() -> DiffusersPolicy:
    made = DiffusersPolicy.untrained(
        observation_shapes={"observation": (4,)}, chunk_shape=(8, 2), hidden=(16,)
    )
    chunk = 0.015 * torch.rand(64, 8, 2)
    made.fit_normalizer(chunk, torch.rand(64, 4))
    return made.eval().requires_grad_(False)


def test_there_are_three_uses_of_at_most_fifteen_lines() -> None:
    lengths = [len([line for line in block.splitlines() if line.strip()]) for block in BLOCKS]
    assert len(BLOCKS) == 3
    assert max(lengths) <= 15, lengths


@pytest.mark.filterwarnings("ignore:the base's episodes show one behaviour")  # it is untrained
def test_wrapping_a_diffusers_policy(
    policy: DiffusersPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for budget in ("outcome_steps", "guide_steps"):
        monkeypatch.setitem(GuidedDiscovery.__init__.__kwdefaults__, budget, 20)
    monkeypatch.setitem(discover_modes.__kwdefaults__, "refinements", 2)
    monkeypatch.setitem(ClusterModeDiscoverer.__init__.__kwdefaults__, "steps", 200)
    policy.save_pretrained("my_policy")
    names: dict[str, Any] = {}
    exec(code(0), names)
    assert names["discoverer"].fitted
    assert names["rollout"]["next", "action_chunk"].shape[-2:] == (8, 2)


@pytest.mark.filterwarnings("ignore:The env passed to Collector is missing:FutureWarning")
def test_composing_the_transforms_in_a_loop(policy: DiffusersPolicy) -> None:
    critic = TensorDictModule(
        MLP(5 + 16, 1), ["observation", "elapsed", "latent_features"], ["state_value"]
    )
    seen: list[TensorDict] = []

    def update(loss: ClipPPOLoss, data: TensorDict) -> None:
        losses = loss(data.reshape(-1))
        sum(losses[key] for key in ("loss_objective", "loss_critic")).backward()
        seen.append(data)

    names = {
        "ActionChunk": ActionChunk,
        "Avoid": Avoid,
        "CategoricalMI": CategoricalMI,
        "ClipPPOLoss": ClipPPOLoss,
        "Collector": Collector,
        "Compose": Compose,
        "History": History,
        "Layout": Layout,
        "LatentConditioner": LatentConditioner,
        "MIReward": MIReward,
        "NoiseAction": NoiseAction,
        "TransformedEnv": TransformedEnv,
        "VariationalModeDiscoverer": VariationalModeDiscoverer,
        "advantage_estimator": advantage_estimator,
        "critic": critic,
        "policy": policy,
        "total_frames": 6144,
        "update": update,
    }
    exec(code(1), names)
    assert len(seen) == 2
    difference = seen[-1]["next", "regularized_reward"] - seen[-1]["next", "reward"]
    torch.testing.assert_close(difference, 0.3 * seen[-1]["next", "mi_reward"])
    assert all(p.grad is not None for p in names["steering"].parameters())


def test_checks_in_ci() -> None:
    names = {
        "CategoricalPrior": CategoricalPrior,
        "ESTIMATOR": CategoricalMI(6, 8),
        "MyEstimator": CategoricalMI,
        "MyPolicy": lambda: TinyPolicy(4),
        "MyTransform": lambda: LatentConditioner(4),
        "TensorDict": TensorDict,
        "given": given,
        "tensordicts": tensordicts,
        "torch": torch,
    }
    exec(code(2), names)
    tests = {name: value for name, value in names.items() if name.startswith("test_")}
    assert len(tests) == 4
    for test in tests.values():
        fixtures = [name for name in signature(test).parameters if name.startswith("modereg_")]
        test(*(getattr(testing, name.removeprefix("modereg_")) for name in fixtures))
