from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from modereg.errors import ConfigurationError
from modereg.recipes.config import (
    DiscoverConfig,
    FinetuneConfig,
    LogConfig,
    PPOConfig,
    PretrainConfig,
    TaskConfig,
    to_yaml,
)
from modereg.report.folders import KINDS, command, commands, read_config

TASK = TaskConfig("gymnasium:Pendulum-v1", {"pay_spread": 0.5, "max_steps": 22, "on": True}, 64)
CONFIGS = [
    PretrainConfig(),
    PretrainConfig(out=Path("my runs/base"), method="flow", shares=(0.25, 0.75), hidden=(8, 9)),
    DiscoverConfig(task=TASK, std=(0.5, 1e-7), num_codes=12, log=LogConfig(progress=False)),
    FinetuneConfig(task=TASK, coef=0.0, start="runs/it's", ppo=PPOConfig(epochs=2, kl_coef=0.1)),
    FinetuneConfig(std=0.4, log=LogConfig(tensorboard=False, wandb="a b"), resume=True),
]


def parse(line: str) -> Any:
    program, *arguments = shlex.split(line)
    assert program == "modereg"
    return tyro.cli(KINDS[arguments[0]], args=arguments[1:])


@pytest.mark.parametrize("config", CONFIGS)
def test_a_command_gives_its_configuration_again(config: Any, tmp_path: Path) -> None:
    assert parse(command(config)) == config
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_config(tmp_path) == config


def test_defaults_are_left_out() -> None:
    assert command(FinetuneConfig()) == "modereg finetune"
    assert command(FinetuneConfig(out=Path("a b"), coef=0.1)) == (
        "modereg finetune --out 'a b' --coef 0.1"
    )


def test_commands_lead_from_the_base_to_each_run(tmp_path: Path) -> None:
    """In order and once each; a base of another make has no command."""
    base = PretrainConfig(out=tmp_path / "base")
    stage_1 = DiscoverConfig(base=str(base.out / "policy"), out=tmp_path / "discover")
    first = FinetuneConfig(base=stage_1.base, start=str(stage_1.out), out=tmp_path / "a")
    configs = [base, stage_1, first, replace(first, out=tmp_path / "b", coef=0.0)]
    for config in configs:
        config.out.mkdir()
        (config.out / "config.yaml").write_text(to_yaml(config))
    assert commands([tmp_path / "a", tmp_path / "b"]) == [command(config) for config in configs]
    other = FinetuneConfig(base="module:factory", out=tmp_path / "c")
    other.out.mkdir()
    (other.out / "config.yaml").write_text(to_yaml(other))
    assert commands([other.out]) == [command(other)]


def test_a_folder_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="without one; name the --out of a run"):
        read_config(tmp_path)
    (tmp_path / "config.yaml").write_text("colour: red\n")
    with pytest.raises(ConfigurationError, match="expected the options of finetune, discover"):
        read_config(tmp_path)
