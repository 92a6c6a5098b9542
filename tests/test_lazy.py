"""Names that are imported on first use, and libraries that may be missing."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from modereg.errors import MissingDependencyError
from modereg.lazy import attach, declared, optional

PACKAGES = [
    *("modereg", "modereg.testing"),
    *(f"modereg_integrations.{name}" for name in ("diffusers", "lerobot", "maniskill", "mujoco")),
    "modereg_integrations.transformers",
]
STUB = """
from lazily_made import part as part
from lazily_made.part import LIMIT as LIMIT
from lazily_made.part import Thing as Thing
from lazily_made.part import act as act
from somewhere import hidden
version: str
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    folder = tmp_path / "lazily_made"
    folder.mkdir()
    (folder / "__init__.pyi").write_text(STUB)
    (folder / "__init__.py").write_text(
        "from modereg.lazy import attach\n"
        "__getattr__, __dir__, __all__ = attach(__name__, __file__)\n"
    )
    (folder / "part.py").write_text("class Thing: ...\ndef act(): return 3\nLIMIT = 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("lazily_made")
    for name in ("lazily_made", "lazily_made.part"):
        sys.modules.pop(name, None)


def test_names_and_submodules_come_when_they_are_used(package: ModuleType) -> None:
    assert package.__all__ == ["LIMIT", "Thing", "act"]
    assert "lazily_made.part" not in sys.modules
    assert {"LIMIT", "Thing", "act", "part", "__name__"} <= set(dir(package))
    assert (package.LIMIT, package.act()) == (5, 3)
    assert package.part.Thing is package.Thing
    assert "Thing" in vars(package)  # found without being asked for a second time


@pytest.mark.parametrize("name", ["hidden", "version", "other"])
def test_other_names_are_refused(package: ModuleType, name: str) -> None:
    with pytest.raises(AttributeError, match=f"'lazily_made' has no attribute '{name}'"):
        getattr(package, name)


def test_a_stub_is_needed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        attach("nothing", str(tmp_path / "__init__.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_each_line_of_a_stub_is_true_and_exports(package: str) -> None:
    """A type checker takes a stub's word: ``import name as name`` exports, and it is there."""
    module = importlib.import_module(package)
    stub = Path(module.__file__).with_suffix(".pyi")
    lines = [line for line in stub.read_text().splitlines() if line.startswith("from ")]
    homes = declared(stub)
    assert len(lines) == len(homes)
    assert {name for name, home in homes.items() if home != package} == set(module.__all__)
    assert {home.partition(".")[0] for home in homes.values()} == {package.partition(".")[0]}


def test_importing_it_is_quick_and_its_submodules_are_attributes() -> None:
    """In CPU seconds, the best of three starts, beside the same Python that imports nothing."""
    assert _cpu("import modereg") - _cpu("pass") < 0.1
    code = "import modereg as m; m.transforms.ActionChunk; m.testing.check_starts; m.wrapping.wrap"
    subprocess.run([sys.executable, "-c", code], check=True)


def _cpu(code: str) -> float:
    ask = "\nimport resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    runs = [
        subprocess.run([sys.executable, "-c", code + ask], capture_output=True, text=True)
        for _ in range(3)
    ]
    return min(float(run.stdout) for run in runs)


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert optional("json.decoder", "It", "json").JSONDecoder
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError) as caught:
        optional("matplotlib", "A page", '"modereg[report]"')
    assert str(caught.value) == (
        "A page needs matplotlib, which is not installed; install it with "
        "'pip install \"modereg[report]\"'"
    )


def test_what_a_library_lacks_itself_is_its_own_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "wants_more.py").write_text("import something_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_that_is_missing") as caught:
        optional("wants_more", "It", "wants_more")
    assert not isinstance(caught.value, MissingDependencyError)
