"""The code on every page of the documentation runs, and shows what the page says that it shows.

Pages that need more than the rest, or belong to a package of their own, are run by tests elsewhere.
"""

from __future__ import annotations

import os
import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

import modereg
from modereg import plugins, testing
from modereg.modes import modes_of
from tests.docs.pages import CHECKOUT, PAGES, blocks, run_page

TESTS = Path(__file__).parents[1]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return what runs a page's blocks in a folder of its own and returns their names."""

    def run(page: str, **options: Any) -> dict[str, Any]:
        return run_page(page, monkeypatch, tmp_path, **options)

    return run


def test_every_page_with_code_is_run() -> None:
    tests = [path.read_text() for path in TESTS.rglob("test_*.py")]
    untested = [
        page
        for page in PAGES
        if blocks(page) and not any(f'{Path(page).name}"' in text for text in tests)
    ]
    assert not untested


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
    assert made["env"].rollout(1)["next", "executed_chunk"].shape == (16, 1, 8, 2)
    assert made["again"].fingerprint() == made["policy"].fingerprint()


def test_a_checkpoint_on_a_goal_dictionary(run: Any) -> None:
    try:
        made = run("tutorials/goal_dictionary.md")
    finally:
        gymnasium.registry.pop("Reach-v0", None)
    assert made["env"].layout.max_decisions == 8
    assert made["rollout"]["next", "executed_chunk"].shape[-2:] == (8, 2)
    assert made["rollout"]["stacked", "desired_goal"].shape[-2:] == (2, 2)


def test_from_scratch(run: Any) -> None:
    small = "env_steps=9_000, updates=2, cluster_every=1, final_episodes=64"
    made = run("tutorials/from_scratch.md", smaller={"env_steps=50_000": small})
    assert made["summary"]["modes"] == len(made["embeddings"]) >= 1
    assert made["chunks"].shape == (32, 4, 2)


def test_a_gymnasium_environment(run: Any) -> None:
    try:
        made = run("tutorials/gymnasium_environment.md", smaller={"episodes=1024": "episodes=256"})
    finally:
        gymnasium.registry.pop("Room-v0", None)
    assert made["figures"][0]["silhouette"] > 0.3
    assert made["figures"][-1]["hits"] > 0.5
    assert (made["maze"].layout.time_limit, made["maze"].layout.max_decisions) == ("truncates", 10)
    assert made["rollout"].shape == (4, 3)


def test_demonstrations(run: Any) -> None:
    made = run("tutorials/demonstrations.md")
    assert len(made["recording"]) == 12
    assert made["decisions"]["next", "executed_chunk"].shape == (int(made["number"].sum()), 4, 2)


def test_an_own_learner(run: Any) -> None:
    """The page's file is a learner, and a name of the command line, with no change elsewhere."""
    smaller = {"env_steps=60_000": "env_steps=12_000", "steps=600": "steps=100"}
    made = run("tutorials/own_learner.md", smaller=smaller)
    assert made["summary"]["method"] == "finetune"
    text = PAGES["tutorials/own_learner.md"]
    (block,) = [
        block for block in blocks("tutorials/own_learner.md") if "class Reinforce:" in block
    ]
    assert len(block[block.index("class Reinforce:") :].splitlines()) <= 40
    (entry,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    named = tomllib.loads(entry)["project"]["entry-points"]["modereg.learners"]
    assert named == {"reinforce": "my_package.reinforce:ReinforceConfig"}


@pytest.mark.filterwarnings("ignore:The env passed to Collector is missing:FutureWarning")
def test_an_own_loop(run: Any) -> None:
    smaller = {
        "discover_modes(env, steering, discoverer)": "discover_modes(env, steering, discoverer, "
        "episodes=512)",
        "total_frames=100_000": "total_frames=2 * 256 * layout.max_decisions",
    }
    made = run("tutorials/own_loop.md", smaller=smaller)
    after, pays = made["batch"]["next"], made["mi_reward"]
    assert float(made["balance"].coef) != 1.0
    paid = after["reward"] / pays.unit + pays.coef * after["mi_reward"]
    torch.testing.assert_close(after["regularized_reward"], paid)
    assert all(weight.grad is not None for weight in made["steering"].parameters())
    assert made["metrics"].present_modes == 4
    assert made["metrics"].commandable_modes >= 2
    assert made["found"].basis.shape == (16, 2)
    assert made["found"].share > 0.999
    assert made["narrow"].noise_shape == (2,)


def test_handling_modes(run: Any) -> None:
    smaller = {
        "discover_modes(env, steering, discoverer)": "discover_modes(env, steering, discoverer, "
        "episodes=512)",
    }
    made = run("tutorials/handling_modes.md", smaller=smaller)
    left, right, dropped, *_ = modes = modes_of(made["edited"])
    assert (left.name, left.codes, right.name, dropped.share) == ("left", (0, 2), "right", 0.0)
    selector = made["selector"]
    assert selector.modes == tuple(mode for mode in modes if mode is not dropped)
    assert 10 <= selector.successes.sum() + selector.failures.sum() <= 30
    assert selector.successes.sum() >= 8
    rates, once = made["rates"], made["blocked_success"](made["rates"]).mean(1)
    assert bool((made["replanned_success"](rates, tries=3) > once).all())


def test_an_environment_without_labels(run: Any) -> None:
    made = run("tutorials/no_labels.md", smaller={"episodes=2048": "episodes=512"})
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


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere_on_a_code_host_too(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[page]):
        if not target.startswith("http"):
            path = os.path.normpath(Path("docs") / Path(page).parent / target)
            assert (CHECKOUT / path).exists(), f"{page} links to {target}"
