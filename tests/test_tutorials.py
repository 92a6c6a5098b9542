"""The tutorials' code runs, and is that of the example repository where it says so."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modereg import testing

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLE = DOCS / "examples" / "own_estimator"
TUTORIAL = (DOCS / "tutorials" / "own_estimator.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)
POLICY_AND_ENV = {
    "modereg_counting_env": lambda: testing.CountingEnv((3, 7, 4), start_noise=1.0),
    "modereg_tiny_policy": lambda: testing.TinyPolicy(3, (4, 2)),
}
"""What the fixtures of these names make; tests/testing/test_plugin.py runs the fixtures."""


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """Run the blocks one after the other, the second without its import of the first."""
    names: dict[str, Any] = {"__name__": "tutorial"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in BLOCKS:
            exec(block.replace("from floored_mi import FlooredMI\n", ""), names)
    return names


def call(test: Callable[..., None], **given: Any) -> None:
    """Call a test function with the plug-in's fixtures that it names."""
    for name in inspect.signature(test).parameters:
        if name.startswith("modereg_check_"):
            given[name] = getattr(testing, name.removeprefix("modereg_"))
        elif name in POLICY_AND_ENV:
            given[name] = POLICY_AND_ENV[name]()
    test(**given)


def test_its_code_is_that_of_the_example() -> None:
    estimator = (EXAMPLE / "src" / "floored_mi" / "__init__.py").read_text()
    tests = (EXAMPLE / "tests" / "test_floored_mi.py").read_text()
    assert BLOCKS[:2] == [estimator, tests]
    assert len([line for line in tests.splitlines() if line]) <= 10
    workflow = (EXAMPLE / ".github" / "workflows" / "test.yml").read_text()
    assert f"```yaml\n{workflow}```" in TUTORIAL


def test_the_estimator_passes(names: dict[str, Any]) -> None:
    call(names["test_floored_mi"], floor=0.2)
    call(names["test_a_floor_of_one_is_refused"])


def test_the_mistake_is_found_by_the_sentence_that_it_shows(names: dict[str, Any]) -> None:
    shown = re.search(r"E   AssertionError: (.*): \.\.\.", TUTORIAL)
    assert shown is not None
    with pytest.raises(AssertionError, match=f"^{re.escape(shown[1])}"):
        call(names["test_without_prior"])


def test_its_own_property_holds(names: dict[str, Any]) -> None:
    names["test_a_mistake_costs_at_most_the_floor"]()


def test_the_estimator_learns_and_pays(names: dict[str, Any]) -> None:
    assert names["metrics"]["bound_share"] > 0.8
    paid, entropy = names["paid"], names["estimator"].prior.entropy
    assert not paid[:, :-1].any()
    assert 0 < paid[:, -1].mean() <= names["estimator"].upper_limit / entropy


@pytest.mark.parametrize("kind", ["discoverer", "task", "transform", "policy"])
def test_the_other_checks(names: dict[str, Any], kind: str) -> None:
    call(names[f"test_a_{kind}"])


def test_every_check_is_listed() -> None:
    listed = set(re.findall(r"\| `(modereg_check_\w+)` \|", TUTORIAL))
    assert listed == {name for name in dir(testing.plugin) if name.startswith("modereg_check_")}
