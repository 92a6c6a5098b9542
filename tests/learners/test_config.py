from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from modereg import cli
from modereg.cli import main
from modereg.errors import ConfigurationError, MissingDependencyError
from modereg.learners import config as learners
from modereg.learners.config import PPOConfig, learner_configs
from modereg.numbers import check_numbers
from modereg.recipes.config import FinetuneConfig, from_yaml, to_yaml


@dataclass(frozen=True)
class ReinforceConfig:
    """A learner of somebody else's.

    Attributes:
        baseline: what is subtracted from returns.
    """

    name: ClassVar[str] = "reinforce"

    baseline: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(self, nonnegative=("baseline",))

    def make(self, problem: Any) -> Any:
        """Return nothing that learns."""
        return problem


class Plain:
    """No dataclass."""


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Entry points as another package would declare them."""
    points = [EntryPoint("reinforce", f"{__name__}:ReinforceConfig", learners.GROUP)]
    monkeypatch.setattr(
        learners, "entry_points", lambda group: points if group == learners.GROUP else []
    )
    return points


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Configurations that commands would have run."""
    found: list[Any] = []
    monkeypatch.setattr(cli, "_run", lambda config: found.append(config) or {})
    return found


def exit_status(words: list[str]) -> int | str | None:
    """Run a command; the parser leaves by SystemExit."""
    try:
        return main(words)
    except SystemExit as end:
        return end.code


def test_a_learner_by_entry_point_is_a_sub_command(
    registered: list[EntryPoint], seen: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    off_policy = {"dsrl", "qf3", "resfit", "residual", "sac"}
    assert set(learner_configs()) == {"dppo", "ppo", "reinforce", "resip"} | off_policy
    assert main(["finetune", "reinforce", "--learner.baseline", "0.25", "--seed", "3"]) == 0
    assert main(["finetune", "--learner.epochs", "2"]) == 0
    assert main(["finetune", "ppo"]) == 0
    other, usual, named = (config.learner for config in seen)
    assert other == ReinforceConfig(0.25)
    assert (usual, named) == (PPOConfig(epochs=2), PPOConfig())
    assert all(type(config) is FinetuneConfig for config in seen)
    assert seen[0].seed == 3
    with pytest.raises(SystemExit):
        main(["finetune", "reinforce", "--help"])
    shown = capsys.readouterr().out
    assert "--learner.baseline" in shown
    assert "what is subtracted from returns" in shown


@pytest.mark.usefixtures("registered")
def test_a_learner_by_entry_point_comes_back_from_yaml() -> None:
    config = FinetuneConfig(learner=ReinforceConfig(0.125))
    text = to_yaml(config)
    assert yaml.safe_load(text)["learner"] == {"name": "reinforce", "baseline": 0.125}
    assert from_yaml(FinetuneConfig, text) == config
    with pytest.raises(ConfigurationError, match="ReinforceConfig has no option epochs; it has"):
        from_yaml(FinetuneConfig, "learner: {name: reinforce, epochs: 3}")


def test_a_learner_that_is_not_installed_is_named_by_yaml() -> None:
    known = r"a learner of \['dppo', 'dsrl', 'ppo', .* 'resip', 'sac'\], got 'reinforce'"
    with pytest.raises(ConfigurationError, match=known):
        from_yaml(FinetuneConfig, "learner: {name: reinforce, baseline: 0.5}")


def test_entry_points_that_are_no_learners_are_refused(registered: list[EntryPoint]) -> None:
    registered[:] = [EntryPoint("plain", f"{__name__}:Plain", learners.GROUP)]
    with pytest.raises(ConfigurationError, match="'plain' of .* to name a dataclass with make"):
        learner_configs()
    registered[:] = [EntryPoint("gone", "no_such_module:Config", learners.GROUP)]
    with pytest.raises(MissingDependencyError, match="'gone'.*cannot be imported.*no_such_module"):
        learner_configs()


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("discover variational --method.refinements 3", "--method.refinements"),
        ("discover variational --method.std 0.5 0.2", "--method.std"),
        ("discover --method.iterations 3", "--method.iterations"),
        ("discover cluster --method.estimator metra", "--method.estimator"),
        ("finetune reinforce --learner.epochs 3", "--learner.epochs"),
        ("finetune ppo --learner.baseline 3", "--learner.baseline"),
        ("finetune --method.refinements 3", "--method.refinements"),
    ],
)
@pytest.mark.usefixtures("registered")
def test_an_option_that_what_is_chosen_does_not_read_is_refused_by_the_parser(
    words: str, option: str, seen: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(words.split()) == 2
    shown = capsys.readouterr().err
    assert "Unrecognized" in shown
    assert option in shown
    assert not seen


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("finetune --task.num-envs 0", "expected num_envs of at least 1, got 0"),
        ("finetune --task.gamma 1.5", "expected gamma in [0, 1], got 1.5"),
        ("finetune --task.execute 0", "expected execute of at least 1, got 0"),
        ("finetune --num-codes 0", "expected num_codes of at least 1, got 0"),
        ("discover --num-codes 0", "expected num_codes of at least 1, got 0"),
        ("finetune --hidden 0", "expected hidden of at least 1, got 0"),
        ("finetune --hidden 8 0", "expected hidden of at least 1, got 0"),
        ("finetune --std 0", "expected std above 0 and finite, got 0.0"),
        ("finetune --eval-every 0", "expected eval_every of at least 1, got 0"),
        ("finetune --final-episodes 0", "expected final_episodes of at least 1, got 0"),
        ("finetune --env-steps -1", "expected env_steps of at least 0, got -1"),
        ("finetune --seed -1", "expected seed of at least 0, got -1"),
        ("discover --seed -1", "expected seed of at least 0, got -1"),
        ("pretrain --seed -1", "expected seed of at least 0, got -1"),
        ("evaluate --seed -1", "expected seed of at least 0, got -1"),
        ("evaluate --episodes 0", "expected episodes of at least 1, got 0"),
        ("inspect --seed -1", "expected seed of at least 0, got -1"),
        ("demo --jobs 0", "expected jobs of at least 1, got 0"),
        ("finetune --learner.learning-rate -1", "learning_rate above 0 and finite, got -1.0"),
        ("finetune --learner.learning-rate 0", "learning_rate above 0 and finite, got 0.0"),
        ("finetune --learner.learning-rate inf", "learning_rate above 0 and finite, got inf"),
        ("finetune --learner.epochs 0", "expected epochs of at least 1, got 0"),
        ("finetune --learner.minibatch 0", "expected minibatch of at least 1, got 0"),
        ("finetune --learner.decisions 0", "expected decisions of at least 1, got 0"),
        ("finetune --learner.lmbda 1.5", "expected lmbda in [0, 1], got 1.5"),
        ("finetune --learner.clip 0", "expected clip above 0 and finite, got 0.0"),
        ("discover --method.episodes 0", "expected episodes of at least 1, got 0"),
        ("discover --method.std 0.5 0", "expected std above 0 and finite, got 0.0"),
        ("discover --method.target nan", "expected target in [0, 1], got nan"),
        ("discover variational --method.iterations -1", "iterations of at least 0, got -1"),
        ("discover variational --method.eval-every 0", "expected eval_every of at least 1, got 0"),
        ("discover variational --method.ppo.epochs 0", "expected epochs of at least 1, got 0"),
        ("pretrain --batch 0", "expected batch of at least 1, got 0"),
        ("pretrain --learning-rate -1", "expected learning_rate above 0 and finite, got -1.0"),
        ("pretrain --hidden 0", "expected hidden of at least 1, got 0"),
        ("pretrain --steps 0", "expected steps of at least 1, got 0"),
        ("pretrain --ema 1.5", "expected ema in [0, 1], got 1.5"),
        ("finetune gate", "expected balance only with codes that it acts on"),
        ("finetune --discoverer online", "expected discoverer only with codes that it acts on"),
        ("finetune --regulariser scratch", "expected regulariser only with codes that it acts on"),
        ("finetune --start runs/a --num-codes 3", "expected start or num_codes, got both"),
    ],
)
def test_a_number_out_of_range_is_refused_at_parsing(
    words: str,
    sentence: str,
    seen: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    assert exit_status([*words.split(), "--out", str(out)]) not in (0, None)
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert sentence in shown
    assert "Traceback" not in shown
    assert not seen
    assert not out.exists()


def test_rules_name_the_first_field_that_breaks_them() -> None:
    @dataclass
    class Numbers:
        a: Any = 1
        b: Any = None
        c: Any = (1, 2)

    check_numbers(Numbers(), count=("a", "b", "c"))
    for value in (0, -1, (3, 0)):
        with pytest.raises(ConfigurationError, match="expected a of at least 1, got"):
            check_numbers(Numbers(a=value), count=("a", "b"))
    check_numbers(Numbers(a=0.0), natural=("a",), nonnegative=("a",), share=("a",))
    with pytest.raises(FrozenInstanceError):
        PPOConfig().epochs = 2  # type: ignore[misc]
