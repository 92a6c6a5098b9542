from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest

from modereg import arguments
from modereg.balances.config import BoundConfig, ConstantConfig, GateConfig, MultiplierConfig
from modereg.errors import CheckpointError, ConfigurationError
from modereg.learners import config as learners
from modereg.learners.config import PPOConfig, SACConfig
from modereg.recipes.config import (
    ClusterConfig,
    DiscoverConfig,
    FinetuneConfig,
    GuidedConfig,
    LogConfig,
    PretrainConfig,
    TaskConfig,
    VariationalConfig,
    to_yaml,
)
from modereg.recipes.config.text import read_config
from modereg.report.folders import (
    command,
    commands,
    read_curves,
    read_seconds,
    read_summary,
    read_versions,
)

TASK = TaskConfig("gymnasium:Pendulum-v1", {"pay_spread": 0.5, "max_steps": 22, "on": True}, 64)
QUIET = LogConfig(progress=False)
CONFIGS = [
    PretrainConfig(),
    PretrainConfig(out=Path("my runs/base"), method="flow", shares=(0.25, 0.75), hidden=(8, 9)),
    DiscoverConfig(task=TASK, method=ClusterConfig(std=(0.5, 1e-7)), num_codes=12, log=QUIET),
    DiscoverConfig(method=VariationalConfig(iterations=7, ppo=PPOConfig(kl_coef=0.02, epochs=2))),
    DiscoverConfig(method=VariationalConfig(), device="cuda", page=False),
    FinetuneConfig(task=TASK, start="it's", learner=PPOConfig(epochs=2, kl_coef=0.1)),
    FinetuneConfig(num_codes=3, learner=SACConfig(tau=0.1), balance=BoundConfig(limits=(0.1, 2.0))),
    FinetuneConfig(num_codes=3, balance=GateConfig(figure="return", reference=-3.0)),
    FinetuneConfig(num_codes=3, balance=ConstantConfig(0.0)),
    FinetuneConfig(std=0.4, log=LogConfig(tensorboard=False, wandb="a b"), resume=True),
    FinetuneConfig(task=replace(TASK, execute=4, feature_keys=("a.b", "c"), feature_dims=(0, 2))),
]


@dataclass(frozen=True)
class ReinforceConfig:
    """A learner of somebody else's.

    Attributes:
        learning_rate: of Adam.
        baseline: whether returns are compared.
    """

    name: ClassVar[str] = "reinforce"

    learning_rate: float = 1e-3
    baseline: bool = True

    def make(self, problem: Any) -> Any:
        """Return nothing that learns."""
        return problem


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point as another package would declare it."""
    point = EntryPoint("reinforce", f"{__name__}:ReinforceConfig", learners.GROUP)
    monkeypatch.setattr(learners, "entry_points", lambda group: [point])


def parse(line: str) -> Any:
    """Read a command line as the program itself does."""
    program, *words = shlex.split(line)
    assert program == "modereg"
    return arguments.parse(words)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_command_gives_its_configuration_again(config: Any, tmp_path: Path) -> None:
    assert parse(command(config)) == config
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_config(tmp_path) == config


def test_defaults_are_left_out() -> None:
    assert command(FinetuneConfig()) == "modereg finetune"
    assert command(FinetuneConfig(out=Path("a b"), num_codes=4, std=0.1)) == (
        "modereg finetune --out 'a b' --num-codes 4 --std 0.1"
    )


def test_what_is_chosen_stands_after_the_command() -> None:
    by_reward = DiscoverConfig(method=VariationalConfig(iterations=7))
    assert command(by_reward) == "modereg discover variational --method.iterations 7"
    assert command(DiscoverConfig(method=VariationalConfig())) == "modereg discover variational"
    clusters = DiscoverConfig(method=ClusterConfig(episodes=9))
    assert command(clusters) == "modereg discover cluster --method.episodes 9"
    guided = DiscoverConfig(method=GuidedConfig(episodes=9))
    assert command(guided) == "modereg discover --method.episodes 9"
    both = FinetuneConfig(num_codes=3, learner=SACConfig(), balance=MultiplierConfig(share=0.8))
    assert command(both) == ("modereg finetune sac multiplier --num-codes 3 --balance.share 0.8")


@pytest.mark.usefixtures("registered")
def test_a_learner_by_entry_point_stands_after_the_command(tmp_path: Path) -> None:
    config = FinetuneConfig(std=0.4, learner=ReinforceConfig(0.003, baseline=False))
    line = command(config)
    assert line == (
        "modereg finetune reinforce --learner.learning-rate 0.003 --learner.no-baseline --std 0.4"
    )
    assert parse(line) == config
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_config(tmp_path) == config


def test_commands_lead_from_the_base_to_each_run(tmp_path: Path) -> None:
    """In order and once each; a base of another make has no command."""
    base = PretrainConfig(out=tmp_path / "base")
    stage_1 = DiscoverConfig(base=str(base.out / "policy"), out=tmp_path / "discover")
    first = FinetuneConfig(base=stage_1.base, start=str(stage_1.out), out=tmp_path / "a")
    configs = [base, stage_1, first, replace(first, out=tmp_path / "b", balance=GateConfig())]
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


FIGURES: dict[str, Any] = {
    "episodes": 48,
    "mean_return": 1.5,
    "per_code_return": [1.0, None],
    "code_shares": [1.0, 0.0],
    "success": 0.5,
    "success_error": 0.1,
    "mode_shares": [0.5, 0.5, 0.0],
    "code_mode_table": [[1, 1, 0], [0, 0, 0]],
    "bound_share": 0.25,
}


def finished(folder: Path) -> Path:
    """Write what a finished run leaves behind, but for its adapter."""
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(FinetuneConfig(out=folder, num_codes=4)))
    summary = {"env_steps": 900, "sampled": FIGURES, "deterministic": FIGURES}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "curves.csv").write_text("phase,env_steps,success\ntrain,100,\ntrain,200,0.5\n")
    (folder / "timing.json").write_text('{"seconds": 20.0}')
    (folder / "versions.json").write_text('{"started": {"modereg": "0.1.0"}}')
    return folder


READERS = {
    "config.yaml": read_config,
    "summary.json": read_summary,
    "curves.csv": read_curves,
    "timing.json": read_seconds,
    "versions.json": read_versions,
}


def test_a_whole_folder_is_read(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    found = [read(run) for read in READERS.values()]
    assert found[1]["sampled"] == FIGURES
    assert found[2] == [{"env_steps": 100.0}, {"env_steps": 200.0, "success": 0.5}]
    assert found[3:] == [20.0, {"modereg": "0.1.0"}]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "damage", ["missing", "cut", "bytes", "folder", "loop", "deep", "number", "list", "text"]
)
def test_a_damaged_file_is_named(name: str, damage: str, tmp_path: Path) -> None:
    """In one sentence, whatever took its place, and within moments."""
    run = finished(tmp_path / "run")
    path = run / name
    whole = path.read_text()
    path.unlink()
    half = whole[: len(whole) // 2]
    texts = {
        "cut": half[: half.rfind(":")],
        "deep": "[" * 100_000,
        "number": f'{{"seconds": {"9" * 5000}}}',
        "list": "[1, 2]",
        "text": "\0 what is this?",
    }
    if damage == "folder":
        path.mkdir()
    elif damage == "loop":
        path.symlink_to(path)
    elif damage == "bytes":
        path.write_bytes(b"\xff\xfe\x00\xd8")
    elif damage in texts:
        path.write_text(texts[damage])
    if name == "versions.json" and damage in ("missing", "loop"):
        assert read_versions(run) == {}  # nobody needs them
        return
    with pytest.raises((CheckpointError, ConfigurationError)) as error:
        READERS[name](run)
    assert name in str(error.value)
    assert str(run) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampled": None}, "sampled NoneType"),
        ({"sampled": {}}, "sampled.episodes None"),
        ({"env_steps": "many"}, "env_steps 'many'"),
        ({"env_steps": True}, "env_steps True"),
        ({"sampled": FIGURES | {"success": float("nan")}}, "sampled.success nan"),
        ({"sampled": FIGURES | {"success": "all"}}, "sampled.success 'all'"),
        ({"sampled": FIGURES | {"bound_share": float("inf")}}, "sampled.bound_share inf"),
        ({"sampled": FIGURES | {"code_shares": {"a": 1}}}, "sampled.code_shares {'a': 1}"),
        ({"sampled": FIGURES | {"code_shares": [0.5, float("nan")]}}, "sampled.code_shares"),
        ({"sampled": FIGURES | {"per_code_return": [1.0]}}, "per_code_return of 1 codes, not 2"),
        ({"sampled": FIGURES | {"code_mode_table": [[1], [2]]}}, "another shape than [2][3]"),
        ({"deterministic": [1]}, "deterministic list"),
    ],
)
def test_figures_that_are_none_are_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    run = finished(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text()) | changes
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(CheckpointError, match=re.escape(said)) as error:
        read_summary(run)
    assert str(run / "summary.json") in str(error.value)


@pytest.mark.parametrize("text", ["{}", "null", '{"env_steps": 3}', "[]", '"done"'])
def test_a_summary_of_nothing_is_none(text: str, tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    (run / "summary.json").write_text(text)
    with pytest.raises(CheckpointError, match="as a finished run leaves it, got none"):
        read_summary(run)


@pytest.mark.parametrize(
    "text",
    [
        "env_steps,success\n100,0.5\n,0.6\n",
        "env_steps,success\n100,nan\n",
        "env_steps,success\n100,0.5,7,8\n",
        "env_steps,success\n100,0.5\n200,0",
        "phase,succ\ntrain,0.5\n",
    ],
)
def test_curves_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    (run / "curves.csv").write_text(text)
    with pytest.raises(CheckpointError, match="curves.csv as a finished run leaves it"):
        read_curves(run)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("std: null", "std: much"),
        ("std: null", "std: .nan"),
        ("seed: 0", "seed: 0.5"),
        ("start: null", "start: [1]"),
        ("resume: false", "resume: 1"),
    ],
)
def test_options_of_another_type_are_refused(old: str, new: str, tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    text = (run / "config.yaml").read_text()
    assert f"\n{old}\n" in text
    (run / "config.yaml").write_text(text.replace(f"\n{old}\n", f"\n{new}\n"))
    name = new.partition(":")[0]
    with pytest.raises(ConfigurationError, match=f"expected {name} in .*config.yaml of the type"):
        read_config(run)


def test_parts_of_another_type_are_refused(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    for part, said in {
        "task: 5": "expected task in",
        "task: {num_envs: many}": "expected task.num_envs in",
        "learner: [1]": "expected the name of a learner in",
        "learner: {name: ppo, clip: wide}": "expected learner.clip in",
        "learner: {clip: 0.1}": "expected the name of a learner in",
        "hidden: [8, wide]": "expected hidden in",
        "hidden: [8, 0]": "expected hidden of at least 1, got 0",
        "balance: {name: gate}": "expected balance only with codes",
        "balance: gat": "expected the name of a balance in",
        "balance: {name: gate, coef: much}": "expected balance.coef in",
    }.items():
        (run / "config.yaml").write_text(f"start: null\n{part}\n")
        with pytest.raises(ConfigurationError, match=f"{said}.*config.yaml"):
            read_config(run)
