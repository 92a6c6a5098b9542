from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modereg.errors import ConfigurationError
from modereg.recipes import config as configurations
from modereg.recipes.config import (
    DemoConfig,
    DiscoverConfig,
    EvaluateConfig,
    FinetuneConfig,
    LogConfig,
    PPOConfig,
    PretrainConfig,
    TaskConfig,
    from_yaml,
    to_yaml,
)

KINDS = [PretrainConfig, DiscoverConfig, FinetuneConfig, EvaluateConfig, DemoConfig, PPOConfig]


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_come_back(kind: type) -> None:
    assert from_yaml(kind, to_yaml(kind())) == kind()
    assert from_yaml(kind, "") == kind()


@given(
    st.builds(
        FinetuneConfig,
        base=st.text("abc:/._-", min_size=1),
        start=st.none() | st.just("runs/a: b"),
        out=st.just(Path("x/y z")),
        task=st.builds(
            TaskConfig,
            options=st.dictionaries(
                st.sampled_from(["pay_spread", "pay", "on"]),
                st.booleans() | st.integers(-5, 5) | st.floats(-1, 1) | st.just("yes"),
            ),
            num_envs=st.none() | st.integers(1, 9),
        ),
        std=st.none() | st.floats(0.1, 1.0),
        hidden=st.lists(st.integers(1, 512), max_size=3).map(tuple),
        ppo=st.builds(PPOConfig, gamma=st.floats(0, 1), decisions=st.none() | st.integers(1, 9)),
        log=st.builds(LogConfig, wandb=st.none() | st.just("project")),
        resume=st.booleans(),
    )
)
def test_a_configuration_comes_back(config: FinetuneConfig) -> None:
    found = from_yaml(FinetuneConfig, to_yaml(config))
    assert found == config
    assert isinstance(found.out, Path)
    assert isinstance(found.ppo, PPOConfig)


def test_what_is_absent_keeps_its_default() -> None:
    found = from_yaml(DiscoverConfig, "seed: 3\nppo: {clip: 0.1}\nstd: [0.5, 0.2]")
    assert (found.seed, found.std, found.method) == (3, (0.5, 0.2), "cluster")
    assert found.ppo == PPOConfig(clip=0.1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sed: 3", "DiscoverConfig has no option sed; it has .*seed"),
        ("ppo: {lr: 0.1}", "PPOConfig has no option lr; it has .*learning_rate"),
        ("- 1\n- 2", "a mapping of options, got list"),
        ("a: [1, ", "expected YAML, got a damaged text"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        from_yaml(DiscoverConfig, text)


@pytest.mark.parametrize(
    "kind", [value for value in vars(configurations).values() if is_dataclass(value)]
)
def test_every_field_is_explained(kind: type) -> None:
    documented = kind.__doc__ or ""
    for entry in fields(kind):
        assert f"        {entry.name}: " in documented, f"{kind.__name__}.{entry.name}"


def test_configurations_are_read_without_torch() -> None:
    code = "import sys, modereg.recipes.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
