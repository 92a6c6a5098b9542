"""The code on every page of the documentation runs, and shows what the page says that it shows.

The blocks of a page run one after the other, as one module of its name. The tutorial on estimators
has a file of its own, ``tests/test_tutorials.py``, since its blocks are those of a repository.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import pytest
import torch

import modereg
from modereg import discover_modes, plugins, testing

DOCS = Path(__file__).parents[2] / "docs"
CHECKOUT = Path(os.environ.get("MODEREG_CHECKOUT", DOCS.parent))
PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text()
    for path in sorted(DOCS.rglob("*.md"))
    if path.relative_to(DOCS).parts[0] not in ("_build", "_generated")
}
ELSEWHERE = {"tutorials/own_estimator.md"}
SMALLER = {
    "tutorials/gymnasium_environment.md": {"episodes=1024": "episodes=256"},
    "tutorials/no_labels.md": {"episodes=2048": "episodes=512"},
    "tutorials/own_loop.md": {
        "max_decisions=decisions)": "max_decisions=decisions, episodes=512)",
        "total_frames=100_000": "total_frames=2 * 256 * decisions",
    },
}
"""Budgets that the tests lower, by page; nothing else of the code is changed."""

FEWER_STEPS = {"imitation_steps": 100, "refinements": 3, "refine_steps": 50}


def blocks(page: str, language: str = "python") -> list[str]:
    """Return the code on a page in a language, with the budgets of tests."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)
    for large, small in SMALLER.get(page, {}).items():
        assert any(large in block for block in found), large
        found = [block.replace(large, small) for block in found]
    return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return what runs a page's blocks in a folder of its own and returns their names."""
    monkeypatch.chdir(tmp_path)
    for budget, steps in FEWER_STEPS.items():
        monkeypatch.setitem(discover_modes.__kwdefaults__, budget, steps)
    monkeypatch.setitem(modereg.ClusterModeDiscoverer.__init__.__kwdefaults__, "steps", 200)

    def run(page: str, **names: Any) -> dict[str, Any]:
        module = ModuleType("my_" + Path(page).stem)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        vars(module).update(names)
        for block in blocks(page):
            exec(compile(block, page, "exec"), vars(module))
        return vars(module)

    return run


def test_every_page_with_code_is_run() -> None:
    with_code = {page for page in PAGES if blocks(page)}
    assert with_code == ELSEWHERE | {page for page in PAGES if page in TESTED}


def test_estimators_are_one_line_to_swap(run: Any) -> None:
    from modereg import estimators, transforms

    names = {name: getattr(estimators, name) for name in estimators.__all__}
    discoverer = modereg.VariationalModeDiscoverer
    made = run("estimators.md", VariationalModeDiscoverer=discoverer, **names, **vars(transforms))
    assert isinstance(made["discoverer"], discoverer)
    assert made["mi_reward"].timing == "difference"
    (block,) = blocks("estimators.md")
    for name in re.findall(r"^estimator = (\w+)\(", block, re.MULTILINE):
        assert f"| `{name}` |" in PAGES["estimators.md"]


def test_a_diffusers_policy(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = run("tutorials/diffusers_policy.md")
    assert "DDIMScheduler.from_config" in capsys.readouterr().out
    assert made["rollout"]["next", "action_chunk"].shape == (256, made["rollout"].shape[1], 8, 2)
    assert made["again"].fingerprint() == made["policy"].fingerprint()


def test_a_gymnasium_environment(run: Any) -> None:
    try:
        made = run("tutorials/gymnasium_environment.md")
    finally:
        gymnasium.registry.pop("Room-v0", None)
    assert made["figures"][0]["silhouette"] > 0.3
    assert made["figures"][-1]["hits"] > 0.5


@pytest.mark.filterwarnings("ignore:The env passed to Collector is missing:FutureWarning")
def test_an_own_loop(run: Any) -> None:
    made = run("tutorials/own_loop.md")
    paid = made["batch"]["next", "regularized_reward"] - made["batch"]["next", "reward"]
    torch.testing.assert_close(paid, 0.3 * made["batch"]["next", "mi_reward"])
    assert all(weight.grad is not None for weight in made["steering"].parameters())
    assert made["metrics"].present_modes == 4
    assert made["metrics"].commandable_modes >= 2


def test_an_environment_without_labels(run: Any) -> None:
    made = run("tutorials/no_labels.md")
    assert made["metrics"].success is None
    assert made["metrics"].effective_codes > 2.5
    assert len(made["metrics"].per_code_return) == 8


def test_an_adapter(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = run("tutorials/adapter.md")
    made["test_my_policy"](testing.check_generative_policy)
    made["test_my_task"](testing.check_task)
    declared = tomllib.loads(blocks("tutorials/adapter.md", "toml")[0])["project"]["entry-points"]

    def entry_points(group: str) -> list[EntryPoint]:
        return [EntryPoint(name, value, group) for name, value in declared[group].items()]

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    (tmp_path / "linear.json").write_text('{"scale": 0.25}')
    assert plugins.resolve_policy(str(tmp_path)).scale == 0.25
    pays = [plugins.resolve_task(f"my:{level}").make_env(2).pay for level in ("easy", "hard")]
    assert pays[0].unique().numel() == 1 < pays[1].unique().numel()


TESTED = {
    "estimators.md",
    "tutorials/adapter.md",
    "tutorials/diffusers_policy.md",
    "tutorials/gymnasium_environment.md",
    "tutorials/no_labels.md",
    "tutorials/own_loop.md",
}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere_on_a_code_host_too(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[page]):
        if not target.startswith("http"):
            path = os.path.normpath(Path("docs") / Path(page).parent / target)
            assert (CHECKOUT / path).exists(), f"{page} links to {target}"
