from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modereg.balances.config import ConstantConfig
from modereg.errors import ConfigurationError
from modereg.learners.config import PPOConfig
from modereg.recipes import config as configurations
from modereg.recipes.config import (
    ClusterConfig,
    DemoConfig,
    DiscoverConfig,
    EvaluateConfig,
    FinetuneConfig,
    FromScratchConfig,
    GuidedConfig,
    LogConfig,
    PretrainConfig,
    TaskConfig,
    VariationalConfig,
    from_yaml,
    to_yaml,
)
from modereg.recipes.config.text import read_config

KINDS = [
    *(PretrainConfig, FromScratchConfig, DiscoverConfig, FinetuneConfig),
    *(EvaluateConfig, DemoConfig),
]


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
            gamma=st.none() | st.floats(0, 1),
            feature_keys=st.none() | st.just(("agent.pos", "ball")),
        ),
        std=st.none() | st.floats(0.1, 1.0),
        hidden=st.lists(st.integers(1, 512), max_size=3).map(tuple),
        learner=st.builds(
            PPOConfig, lmbda=st.floats(0, 1), decisions=st.none() | st.integers(1, 9)
        ),
        log=st.builds(LogConfig, wandb=st.none() | st.just("project")),
        resume=st.booleans(),
    )
)
def test_a_configuration_comes_back(config: FinetuneConfig) -> None:
    found = from_yaml(FinetuneConfig, to_yaml(config))
    assert found == config
    assert isinstance(found.out, Path)
    assert isinstance(found.learner, PPOConfig)
    assert yaml.safe_load(to_yaml(config))["learner"]["name"] == "ppo"


def test_what_is_absent_keeps_its_default() -> None:
    text = "seed: 3\nmethod: {name: variational, iterations: 2, ppo: {name: ppo, clip: 0.1}}"
    found = from_yaml(DiscoverConfig, text)
    expected = VariationalConfig(iterations=2, ppo=PPOConfig(clip=0.1))
    assert (found.seed, found.method) == (3, expected)
    found = from_yaml(DiscoverConfig, "method: {name: cluster, std: [0.5, 0.2]}")
    assert found.method == ClusterConfig(std=(0.5, 0.2))
    found = from_yaml(DiscoverConfig, "method: {name: guided, guide_steps: 7}")
    assert found.method == GuidedConfig(guide_steps=7)
    assert DiscoverConfig().method == GuidedConfig()


@pytest.mark.parametrize(("coef", "weight"), [(None, 0.3), (0.5, 0.5)])
def test_a_run_of_before_there_were_balances_is_read(
    coef: float | None, weight: float, tmp_path: Path
) -> None:
    values = yaml.safe_load(to_yaml(FinetuneConfig(start="runs/discover")))
    del values["balance"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values | {"coef": coef}))
    found = read_config(tmp_path)
    assert found == FinetuneConfig(start="runs/discover", balance=ConstantConfig(weight))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sed: 3", "DiscoverConfig has no option sed; it has .*seed"),
        (
            "method: {name: variational, ppo: {lr: 0.1}}",
            "PPOConfig has no option lr; it has .*lear",
        ),
        (
            "method: {name: cluster, iterations: 3}",
            "ClusterConfig has no option iterations; it has",
        ),
        ("method: {name: guided, refine_steps: 3}", "GuidedConfig has no option refine_steps; it"),
        ("method: {name: guided, guide_steps: 0}", "expected guide_steps of at least 1, got 0"),
        ("method: {name: clusters}", "the name of a method of .*Did you mean 'cluster'"),
        ("method: {episodes: 3}", "the name of a method of .*got None"),
        ("method: {name: guided, residual: -1}", "residual of at least 0, got -1"),
        ("num_codes: 0", "expected num_codes of at least 1, got 0"),
        ("hidden: [8, 0]", "expected hidden of at least 1, got 0"),
        ("num_codes: many", "expected num_codes of the type that its command writes, got 'many'"),
        ("- 1\n- 2", "a mapping of options, got list"),
        ("a: [1, ", "expected YAML, got a damaged text"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        from_yaml(DiscoverConfig, text)


def test_a_run_is_read_as_what_it_is_and_its_faults_are_named_with_the_file(tmp_path: Path) -> None:
    for config in (
        *(PretrainConfig(seed=1), DiscoverConfig(seed=2), FinetuneConfig(seed=3)),
        FromScratchConfig(seed=4),
    ):
        (tmp_path / "config.yaml").write_text(to_yaml(config))
        assert read_config(tmp_path) == config
    for text, sentence in (
        ("learner: {name: ppo, clip: 0}", "expected clip above 0 and finite, got 0 .in "),
        ("start: a\nlearner: {name: ppo, clip: much}", "expected learner.clip in .* of the type"),
        ("start: a\nnum_codes: 3", "expected start or num_codes, got both"),
        ("colour: red", "expected the options of finetune, discover, pretrain, from-scratch in "),
    ):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ConfigurationError, match=sentence) as caught:
            read_config(tmp_path)
        assert str(tmp_path / "config.yaml") in str(caught.value)


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
