from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torchrl.envs import EnvBase

from modereg import plugins
from modereg.errors import CheckpointError, ConfigurationError, MissingDependencyError
from modereg.layout import Layout
from modereg.plugins import POLICY_GROUP, TASK_GROUP, resolve_policy, resolve_task
from modereg.policies import GenerativePolicy, as_generative_policy
from modereg.tasks import Avoid, Task, avoid_task


def make_policy(scale: float = 1.0) -> GenerativePolicy:
    return as_generative_policy(
        lambda noise, observation: scale * noise + observation[..., None, :2],
        in_keys=["observation"],
        noise_shape=(8, 2),
        chunk_shape=(8, 2),
    )


def make_env() -> EnvBase:
    return Avoid(1).to("cpu")


class Loader:
    """Loads a folder that holds ``marker.txt``."""

    def can_load(self, folder: Path) -> bool:
        return (folder / "marker.txt").exists()

    def load(self, folder: Path) -> GenerativePolicy:
        return make_policy(float((folder / "marker.txt").read_text()))


def custom_task(ident: str, *, speed: float = 1.0) -> Task:
    return Task(f"{ident} at {speed}", Avoid, Layout(96, execute=8))


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module as a user would write it, and entry points as another package would declare them."""
    module = ModuleType("third_party_plugin")
    module.policy, module.Loader, module.loader = make_policy, Loader, Loader()
    module.custom_task, module.avoid_task, module.make_env = custom_task, avoid_task, Avoid
    module.nothing = lambda: 3
    monkeypatch.setitem(sys.modules, module.__name__, module)
    declared = {
        TASK_GROUP: {"custom": "third_party_plugin:custom_task", "broken": "no_such_module:x"},
        POLICY_GROUP: {"a_loader": "third_party_plugin:loader"},
    }

    def entry_points(group: str) -> list[EntryPoint]:
        return [EntryPoint(name, value, group) for name, value in declared[group].items()]

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    return module


@pytest.mark.parametrize("name", ["avoid", "gaussian_mixture"])
def test_tasks_of_modereg_by_name(name: str) -> None:
    task = resolve_task(f"task:{name}")
    assert task.name == name
    assert task.make_env(2).batch_size == (2,)


def test_options_reach_the_factory() -> None:
    task = resolve_task("task:avoid", pay_spread=0.5)
    assert task.make_env(1).pay.max() == 1.5


def test_gymnasium_by_id() -> None:
    task = resolve_task("gymnasium:Pendulum-v1", execute=2, g=5.0)
    assert (task.name, task.layout.execute) == ("Pendulum-v1", 2)
    with pytest.raises(ConfigurationError, match="cannot make 'Pendulum-v1'.*'colour'"):
        resolve_task("gymnasium:Pendulum-v1", colour="red")
    with pytest.raises(ConfigurationError, match="cannot make 'no_such_module:Hill-v0'"):
        resolve_task("gymnasium:no_such_module:Hill-v0")


@pytest.mark.usefixtures("third_party")
def test_a_prefix_of_an_entry_point_gets_the_id() -> None:
    assert resolve_task("custom:Hill-v2", speed=2.0).name == "Hill-v2 at 2.0"


@pytest.mark.usefixtures("third_party")
def test_factories_of_tasks_and_of_environments() -> None:
    assert resolve_task("third_party_plugin:avoid_task", pay_spread=0.0).name == "avoid"
    task = resolve_task("third_party_plugin:make_env", max_steps=10, pay_spread=0.2)
    env = task.make_env(3)
    assert task.layout.max_steps == 10
    assert env.rollout(20, lambda td: td.set("action", torch.zeros(3, 2))).shape == (3, 10)
    assert task.name == "third_party_plugin:make_env"


def test_the_installed_package_declares_its_own() -> None:
    assert {"maniskill"} <= set(plugins._entry_points(TASK_GROUP))
    assert {"diffusers"} <= set(plugins._entry_points(POLICY_GROUP))


@pytest.mark.parametrize(
    ("reference", "options", "match"),
    [
        ("avoid", {}, "Expected a task as task:NAME.*Did you mean 'task:avoid'"),
        ("task:", {}, "Expected a task"),
        ("task:avoit", {}, "no task named 'avoit', only.*Did you mean 'avoid'"),
        ("tsk:avoid", {}, "no module 'tsk'.*Did you mean 'task'"),
        ("gymnasum:Pendulum-v1", {}, "Did you mean 'gymnasium'"),
        ("modereg.tasks:avoid_tsk", {}, "has no 'avoid_tsk'.*Did you mean 'avoid_task'"),
        ("task:avoid", {"pay_spred": 1}, "no option 'pay_spred'.*Did you mean 'pay_spread'"),
        ("task:custom", {}, "cannot be made: missing a required argument: 'ident'"),
        ("third_party_plugin:nothing", {}, "must return a Task or an EnvBase, got int"),
    ],
)
@pytest.mark.usefixtures("third_party")
def test_wrong_references_are_answered_in_a_sentence(
    reference: str, options: dict, match: str
) -> None:
    with pytest.raises(ConfigurationError, match=match):
        resolve_task(reference, **options)


@pytest.mark.usefixtures("third_party")
def test_a_plug_in_whose_library_is_missing() -> None:
    with pytest.raises(MissingDependencyError, match="'broken'.*no_such_module"):
        resolve_task("broken:X")


def test_an_import_error_inside_a_users_module_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_with_a_fault.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        resolve_task("module_with_a_fault:task")


@pytest.mark.usefixtures("third_party")
def test_a_folder_is_loaded_by_the_loader_that_knows_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"No loader knows.*a_loader"):
        resolve_policy(str(tmp_path))
    (tmp_path / "marker.txt").write_text("3.0")
    policy = resolve_policy(str(tmp_path))
    noise = torch.ones(1, 8, 2)
    torch.testing.assert_close(policy.decode(noise, torch.zeros(1, 2)), 3 * noise)
    with pytest.raises(ConfigurationError, match="takes no options"):
        resolve_policy(str(tmp_path), scale=2.0)


@pytest.mark.usefixtures("third_party")
def test_loaders_by_name() -> None:
    assert isinstance(plugins.policy_loader("a_loader"), Loader)
    with pytest.raises(ConfigurationError, match="a_loader"):
        plugins.policy_loader("a_loder")


@pytest.mark.usefixtures("third_party")
def test_a_policy_of_a_factory() -> None:
    policy = resolve_policy("third_party_plugin:policy", scale=2.0)
    assert isinstance(policy, GenerativePolicy)
    with pytest.raises(ConfigurationError, match="must give a GenerativePolicy, got int"):
        resolve_policy("third_party_plugin:nothing")
    with pytest.raises(ConfigurationError, match="is no folder"):
        resolve_policy("no/such/folder")


def test_nothing_is_imported_because_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "config.json").write_text('{"class": "evil:Policy", "_class_name": "evil"}')
    with pytest.raises(CheckpointError):
        resolve_policy(str(tmp_path))


def test_fields_of_the_layout_are_no_options_of_a_task() -> None:
    for name in ("feature_dims", "execute", "steering_keys"):
        with pytest.raises(ConfigurationError, match=f"has no option '{name}'; its options are"):
            resolve_task("task:avoid", **{name: 4})


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("task:avoid", False),
        ("task:custom", False),
        ("gymnasium:Pendulum-v1", False),
        ("gymnasium:module:Thing-v0", True),
        ("custom:x", False),
        ("custom:x:y", True),
        ("subprocess:getoutput", True),
        ("runs/base", False),
    ],
)
@pytest.mark.usefixtures("third_party")
def test_a_reference_names_code_or_what_is_installed(reference: str, code: bool) -> None:
    assert plugins.names_code(reference) == code


def test_a_folder_with_a_colon_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    assert not plugins.names_code("a:b")


@pytest.mark.usefixtures("third_party")
def test_a_broken_loader_is_passed_over_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is first in the alphabet, and raises whatever a third party's module may raise."""
    (tmp_path / "marker.txt").write_text("3.0")
    (tmp_path / "breaks_when_imported.py").write_text("raise RuntimeError('no GPU')\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = plugins._entry_points(POLICY_GROUP)
    broken = EntryPoint("a_broken", "breaks_when_imported:loader", POLICY_GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [broken, *points.values()])
    with pytest.warns(UserWarning, match="'a_broken'.*RuntimeError: no GPU.*It is passed over"):
        policy = resolve_policy(str(tmp_path))
    assert isinstance(policy, GenerativePolicy)


def test_the_working_folder_stands_for_no_installed_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is searched last, and only for what was named."""
    (tmp_path / "only_here.py").write_text("def policy():\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part not in ("", str(tmp_path))])
    resolve_task("task:avoid")
    assert str(tmp_path) not in sys.path
    with pytest.raises(ConfigurationError, match="must give a GenerativePolicy, got int"):
        resolve_policy("only_here:policy")
    assert sys.path[-1] == str(tmp_path)


def test_a_module_of_the_working_folder_that_registers_an_environment_is_found(
    tmp_path: Path,
) -> None:
    """In a process of its own, as the ``modereg`` command starts: its folder is not on the path."""
    (tmp_path / "rooms_here.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('HereRoom-v0', 'gymnasium.envs.classic_control:PendulumEnv',"
        " max_episode_steps=5)\n"
    )
    (tmp_path / "tensordict.py").write_text("raise RuntimeError('it stands for the library')\n")
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if p]; from modereg import plugins; "
        "print(plugins.resolve_task('gymnasium:rooms_here:HereRoom-v0').layout.max_steps)"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert run.stdout.strip() == "5", run.stderr
