from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modereg.commands.trials import read_trials
from modereg.errors import CheckpointError, ConfigurationError
from modereg.recipes.config import EvaluateConfig, FinetuneConfig

TEXT = """
seeds: [0, 3]
tasks:
  easy: --task.name task:gaussian_mixture
  hard: --task.name task:avoid --task.options pay_spread 0.5
methods:
  tuned: finetune sac --start {stage1} --base bases/{task}-{seed} --env-steps 9
  stage1: discover --base bases/{task}-{seed}
  base: evaluate --base bases/{task}-{seed}
"""


def test_every_method_on_every_task_with_every_seed(tmp_path: Path) -> None:
    file = written(tmp_path, TEXT)
    trials = read_trials(file, tmp_path / "out")
    assert len({trial.name for trial in trials}) == 12
    names = [trial.name for trial in trials]
    for trial in trials:
        assert all(names.index(name) < names.index(trial.name) for name in trial.needs)
    tuned = next(trial for trial in trials if trial.name == "hard/tuned/3")
    assert tuned.needs == {"hard/stage1/3"}
    assert tuned.folder == tmp_path / "out/hard/tuned/3"
    assert isinstance(tuned.config, FinetuneConfig)
    assert tuned.config.start == str(tmp_path / "out/hard/stage1/3")
    assert (tuned.config.base, tuned.config.seed, tuned.config.out) == (
        "bases/hard-3",
        3,
        tuned.folder,
    )
    assert (tuned.config.resume, tuned.config.page) == (True, False)
    assert tuned.config.learner.name == "sac"
    assert tuned.config.task.options == {"pay_spread": 0.5}
    judged = next(trial for trial in trials if trial.method == "base")
    assert isinstance(judged.config, EvaluateConfig)
    assert not judged.needs
    assert not any(trial.finished({}) for trial in trials)
    assert not (tmp_path / "out").exists(), "whoever asks makes nothing"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("seeds: [0, 3]", "", "expected tasks, methods, seeds in .*, got .'methods', 'tasks'"),
        ("[0, 3]", "[0, 0]", "expected seeds, different whole numbers"),
        ("[0, 3]", "[0, x]", "expected seeds, different whole numbers"),
        ("[0, 3]", "3", "expected seeds, different whole numbers"),
        ("[0, 3]", "[0, true]", "expected seeds, different whole numbers"),
        ("[0, 3]", "[0", "got a damaged text"),
        ("{stage1}", "{stage2}", "got {stage2}. Did you mean 'stage1'?"),
        ("discover --base", "discover --base {tuned}", "which wait for each other"),
        ("discover --base", "discovr --base", "Did you mean 'discover'?"),
        ("discover --base", "report", "to begin with one of pretrain"),
        ("--env-steps 9", "--env-steps many", "of modereg finetune for method tuned on task easy"),
        ("--env-steps 9", "--seed 9", "without --seed, which the sweep sets"),
        ("--env-steps 9", "'--env-steps 9", "a line of options for tuned"),
        ("  easy:", "  ../easy:", "names of letters, digits"),
        ("  easy:", "  seed:", "other than seed and task"),
        ("--base bases/{task}-{seed}\n", "--base os:getcwd\n", "add --trust-code"),
        ("  hard: --task.name task:avoid --task.options pay_spread 0.5", "  hard:", "each a name"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_before_anything_runs(
    old: str, new: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[Any]
) -> None:
    assert old in TEXT
    with pytest.raises(ConfigurationError, match=sentence.replace("{", r"\{").replace("?", r"\?")):
        read_trials(written(tmp_path, TEXT.replace(old, new)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_code_that_a_file_names_is_followed_if_it_is_trusted(tmp_path: Path) -> None:
    file = written(tmp_path, TEXT.replace("bases/{task}-{seed}", "os:getcwd"))
    assert read_trials(file, tmp_path / "out", trust=True)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found none"):
        read_trials(tmp_path / "none.yaml", tmp_path)


def written(folder: Path, text: str) -> Path:
    (folder / "many.yaml").write_text(text)
    return folder / "many.yaml"


def test_the_tutorials_file(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tutorials" / "many_runs.md").read_text()
    file = written(tmp_path, page.split("```yaml\n")[1].split("```")[0])
    trials = read_trials(file, tmp_path / "out")
    assert len(trials) == 2 * 5 * 3
    modereg = next(trial for trial in trials if trial.name == "unequal/modereg/2")
    assert modereg.needs == {"unequal/base/2", "unequal/stage1/2"}
