"""The package as a whole: its names, its metadata, and what importing it does (nothing).

``.ci/run`` runs this file against the built wheel too, with MODEREG_CHECKOUT set.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import modereg
import modereg_integrations
from modereg.errors import MissingDependencyError

PACKAGES = (modereg, modereg_integrations)
OPTIONAL = (
    "lerobot",
    "mani_skill",
    "sapien",
    "sklearn",
    "stable_baselines3",
    "transformers",
    "wandb",
    "jaxtyping",
)
# They extend ManiSkill's classes, and the package around them imports them when a task is made.
NEED_MANISKILL = {
    f"modereg_integrations.maniskill.{name}"
    for name in ("tabletop.scene", "fast.bodies", "fast.control", "fast.path")
}
EXTRAS = ("jinja2", "matplotlib", "tensorboard", "tqdm", "tyro", "yaml")
COMMAND_LINE = tuple(
    f"modereg.{name}"
    for name in ("arguments", "child", "cli", "commands", "doctor", "recipes", "report")
)
HEAVY = {"diffusers", "gymnasium", "matplotlib", "scipy", "tensordict", "torch", "torchrl"}


def _modules() -> list[str]:
    names = [package.__name__ for package in PACKAGES]
    for package in PACKAGES:
        found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        names += [module.name for module in found]
    return [name for name in names if not name.rpartition(".")[2].startswith("_")]


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _isort_style(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


WITHOUT = find_spec("mani_skill") is None


@pytest.mark.parametrize("name", [n for n in _modules() if not (WITHOUT and n in NEED_MANISKILL)])
def test_every_public_name_exists_and_all_is_sorted(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", None)
    if exported is None:
        assert hasattr(module, "__path__"), f"{name} has no __all__"
        exported = []
    for attribute in exported:
        assert hasattr(module, attribute), f"{name}.__all__ names {attribute!r}: there is none"
    public = [attribute for attribute in exported if not attribute.startswith("__")]
    assert public == sorted(public, key=_isort_style)
    assert len(set(public)) == len(public)
    assert module.__doc__


def test_the_root_is_small() -> None:
    assert 10 <= len(modereg.__all__) <= 24
    assert set(modereg.__all__) <= set(dir(modereg))


def test_version() -> None:
    assert modereg.__version__ == metadata.version("modereg")


def test_the_installed_versions_are_the_declared_ones() -> None:
    for line in metadata.requires("modereg") or ():
        requirement = Requirement(line)
        if requirement.marker is None:
            assert metadata.version(requirement.name) in requirement.specifier, line


@pytest.mark.parametrize("package", PACKAGES)
def test_types_are_published(package: object) -> None:
    assert resources.files(package).joinpath("py.typed").is_file()


def test_the_code_under_test_is_the_intended_one() -> None:
    checkout = os.environ.get("MODEREG_CHECKOUT")
    for package in PACKAGES:
        origin = Path(str(package.__file__)).resolve()
        if checkout is None:
            assert origin.is_relative_to(Path(__file__).resolve().parents[1])
        else:
            assert not origin.is_relative_to(Path(checkout).resolve())


@pytest.mark.parametrize("group", ["modereg.policies", "modereg.tasks"])
def test_entry_points_load(group: str) -> None:
    points = [p for p in metadata.entry_points(group=group) if p.dist.name == "modereg"]
    assert points
    for point in points:
        assert point.load() is not None


def test_without_the_optional_libraries_everything_still_imports() -> None:
    names = [name for name in _modules() if name not in NEED_MANISKILL]
    _run(
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({OPTIONAL!r}))\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )


def test_without_the_extras_all_but_the_command_line_imports() -> None:
    names = [name for name in _modules() if not name.startswith((*COMMAND_LINE, "modereg_"))]
    assert len(names) > 90
    _run(
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({EXTRAS!r}))\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )


@pytest.mark.parametrize("library", ["tyro", "yaml", "tqdm"])
def test_the_command_line_names_its_extra(library: str) -> None:
    code = (
        f"import sys\nsys.modules[{library!r}] = None\nsys.argv = ['modereg', '--help']\n"
        "from modereg.__main__ import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    name = {"yaml": "pyyaml"}.get(library, library)
    assert done.stderr.startswith(f"modereg: the command line needs {name}, which")
    assert "pip install modereg[cli]" in done.stderr


def test_a_picture_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from modereg.report.style import canvas

    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install modereg\[report\]"):
        canvas(1.0, 1.0)


def test_little_is_installed_without_extras() -> None:
    required = {
        Requirement(line).name for line in metadata.requires("modereg") or () if "extra" not in line
    }
    assert required == {
        *("diffusers", "gymnasium", "numpy", "safetensors", "scipy"),
        *("tensordict", "torch", "torchrl"),
    }


def test_importing_changes_no_global_setting() -> None:
    """Imports all of ours twice: the second time no other library is imported along with it."""
    changed = _run(f"""
import importlib, logging, multiprocessing, random, sys, warnings
import matplotlib, numpy, torch

def import_ours():
    for name in {[n for n in _modules() if not (WITHOUT and n in NEED_MANISKILL)]!r}:
        importlib.import_module(name)

def state():
    return dict(
        backend=dict.get(matplotlib.rcParams, "backend"),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        device=torch.get_default_device(),
        dtype=torch.get_default_dtype(),
        grad=torch.is_grad_enabled(),
        handlers=list(logging.getLogger().handlers),
        level=logging.getLogger().level,
        numpy_random=str(numpy.random.get_state()),
        precision=torch.get_float32_matmul_precision(),
        python_random=random.getstate(),
        start=multiprocessing.get_start_method(allow_none=True),
        threads=torch.get_num_threads(),
        torch_random=torch.get_rng_state().tolist(),
        validate=torch.distributions.Distribution._validate_args,
        warnings=list(warnings.filters),
    )

import_ours()
for name in [n for n in sys.modules if n.split(".")[0] in ("modereg", "modereg_integrations")]:
    del sys.modules[name]
before = state()
import_ours()
after = state()
print([name for name in before if before[name] != after[name]])
""")
    assert changed == "[]"


def test_the_command_line_helps_without_importing_torch() -> None:
    output = _run(
        "import sys\n"
        "sys.argv = ['modereg', '--help']\n"
        "from modereg.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    for command in ("pretrain", "discover", "finetune", "evaluate", "demo"):
        assert command in output
    assert output.endswith("[]"), f"modereg --help imports {output.splitlines()[-1]}"
