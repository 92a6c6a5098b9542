"""A small PI0 is cloned, its routes are discovered, and fine-tuning keeps them: every step runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modereg.learners.config import PPOConfig
from modereg.recipes.config import (
    DiscoverConfig,
    EvaluateConfig,
    FinetuneConfig,
    GuidedConfig,
    LogConfig,
    PretrainConfig,
    TaskConfig,
)
from modereg.recipes.evaluate import evaluate
from modereg.recipes.follow import discover, finetune, pretrain

pytestmark = pytest.mark.timeout(900)

TASK = TaskConfig("task:visual_avoid")
QUIET = LogConfig(tensorboard=False, progress=False)
PPO = PPOConfig(minibatch=256, learning_rate=1e-3, std_learning_rate=1e-2)
ENV_STEPS = 140_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pi0")


@pytest.fixture(scope="module")
def base(folder: Path) -> str:
    """A PI0 of one layer of width 32."""
    config = PretrainConfig(
        out=folder / "base",
        task=TASK,
        library="transformers",
        method="flow",
        episodes=400,
        shares=(1, 1, 2, 2, 1, 1),
        hidden=(32,),
        steps=1200,
        batch=64,
        learning_rate=4e-3,
        ema=0.99,
        inference_steps=4,
        log=QUIET,
    )
    return str(pretrain(config)["policy"])


@pytest.fixture(scope="module")
def stage_1(folder: Path, base: str) -> dict[str, Any]:
    config = DiscoverConfig(
        base=base,
        out=folder / "stage_1",
        task=TASK,
        method=GuidedConfig(
            episodes=768,
            refinements=1,
            refine_episodes=256,
            outcome_steps=300,
            guide_steps=400,
            student_steps=750,
        ),
        final_episodes=512,
        log=QUIET,
    )
    return discover(config)


def tuned(folder: Path, base: str, name: str, **options: Any) -> dict[str, Any]:
    config = FinetuneConfig(
        base=base,
        out=folder / name,
        task=TASK,
        env_steps=ENV_STEPS,
        eval_every=1000,
        final_episodes=512,
        learner=PPO,
        log=QUIET,
        **options,
    )
    return finetune(config)


def test_the_base_behaves(base: str) -> None:
    judged = evaluate(EvaluateConfig(base=base, task=TASK, episodes=512))["sampled"]
    assert 0.25 < judged["success"] < 0.8
    assert judged["present_modes"] >= 5


def test_stage_1_keeps_the_routes_and_succeeds_more_often(stage_1: dict[str, Any]) -> None:
    judged = stage_1["sampled"]
    assert judged["success"] > 0.6
    assert judged["present_modes"] >= 5
    assert judged["code_mode_nmi"] > 0.4


@pytest.mark.usefixtures("stage_1")
@pytest.mark.filterwarnings("ignore:Worse than the base")
def test_fine_tuning_keeps_the_modes_that_plain_fine_tuning_loses(folder: Path, base: str) -> None:
    """Plain fine-tuning succeeds most often, and by one or two routes of six."""
    start = str(folder / "stage_1")
    regularised = tuned(folder, base, "regularised", start=start)["sampled"]
    plain = tuned(folder, base, "plain")["sampled"]
    assert plain["success"] > 0.8
    assert plain["present_modes"] <= 2
    assert regularised["success"] > 0.65
    assert regularised["present_modes"] >= 4
    assert regularised["entropy"] > plain["entropy"] + 0.3
