"""The paper's stage 1, as a run of it shows what is learned and what is paid."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modereg import keys
from modereg.checkpoints import load_adapter
from modereg.errors import ConfigurationError, NonFiniteError
from modereg.estimators import CategoricalMI
from modereg.networks import MLP, InputNoise
from modereg.recipes.config import VariationalConfig
from modereg.recipes.discover import discover_variational
from modereg.recipes.events import Advanced
from modereg.recipes.follow import discover, follow
from modereg.recipes.setup import set_up
from tests.recipes.conftest import TASK, by_reward, discover_config, read_rows

CODES, NOISE = 3, 0.07


class Recorded(CategoricalMI):
    """A classifier that keeps what it was asked last and what it paid."""

    seen: ClassVar[list[Tensor]] = []

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        paid = super().log_ratio(tensordict)
        Recorded.seen.append(paid.detach())
        return paid


class Broken(CategoricalMI):
    """Pays what is not finite."""

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return super().log_ratio(tensordict) * torch.nan


def _config(base: str, out: Path, **changes: Any) -> Any:
    method = replace(by_reward(iterations=1, eval_episodes=64), **changes)
    return discover_config(base, out, method=method, num_codes=CODES, final_episodes=64)


def test_a_classifier_learns_beside_a_policy_that_begins_at_the_base(
    variational: Path, base: str, tmp_path: Path
) -> None:
    rows = read_rows(variational)
    assert {"reward", "mi_reward", "q_loss", "q_bound", "loss_objective"} <= set(rows[0])
    assert "coef" not in rows[0]  # the intrinsic reward is all there is
    still = VariationalConfig(
        iterations=1, ppo=replace(VariationalConfig().ppo, learning_rate=1e-30)
    )
    discover(replace(_config(base, tmp_path / "still"), method=still))
    begun, moved = (
        load_adapter(run / "adapter").steering.requires_grad_(False).head.network.layers[-1].weight
        for run in (tmp_path / "still", variational)
    )
    assert float(begun.abs().max()) < 1e-9 < float(moved.abs().max())
    assert isinstance(load_adapter(variational / "adapter").estimator, CategoricalMI)


def test_what_is_maximised_is_the_reward_of_the_estimator_that_is_named(
    base: str, tmp_path: Path
) -> None:
    Recorded.seen.clear()
    config = _config(base, tmp_path / "run", estimator=f"{__name__}:Recorded")
    setup = set_up(TASK, base)
    steps = discover_variational(config, config.method, setup, None)
    row = next(event.row for event in steps if isinstance(event, Advanced))
    steps.close()
    limit = math.log(CODES)
    ratio = Recorded.seen[-1]
    assert bool((ratio != 0).any())
    assert abs(row["mi_reward"]) <= 1.0
    assert float((ratio.clamp(-limit, limit) / limit).abs().max()) >= abs(row["mi_reward"])


def test_a_payment_that_is_not_finite_ends_the_run_before_it_is_learned_from(
    base: str, tmp_path: Path
) -> None:
    config = _config(base, tmp_path / "run", estimator=f"{__name__}:Broken")
    with pytest.raises(NonFiniteError, match=f"{keys.MI_REWARD}.* in batch 1"):
        list(follow(config))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize("estimator", ["categorical", "contrastive", "lsd", "metra"])
def test_widths_and_noise_are_those_of_the_configuration_and_the_task(
    base: str, estimator: str, tmp_path: Path
) -> None:
    config = replace(
        _config(base, tmp_path / "run", estimator=estimator, iterations=0),
        hidden=(24, 16), task=replace(TASK, feature_noise=NOISE),
    )  # fmt: skip
    discover(config)
    found = load_adapter(tmp_path / "run" / "adapter").estimator
    assert found is not None
    network = found.network.module
    assert isinstance(network, InputNoise)
    assert isinstance(network.network, MLP)
    linear = [layer for layer in network.network.layers if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear[:-1]] == [24, 16]
    assert network.std == pytest.approx(NOISE)
    assert float(network.network.features.scale[0]) != 1.0


def test_an_estimator_that_nobody_has_is_named(base: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="categorica"):
        discover(_config(base, tmp_path / "run", estimator="categorica"))
