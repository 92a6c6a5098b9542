"""The plug-in for pytest: cheap to load, and its fixtures are the real checks."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from modereg.testing import plugin

pytest_plugins = ["pytester"]

HEAVY = {"gymnasium", "matplotlib", "numpy", "scipy", "tensordict", "torch", "torchrl"}


def test_importing_it_imports_no_torch() -> None:
    code = f"import sys, modereg.testing.plugin\nprint(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_pytest_finds_it_once() -> None:
    points = {point.value for point in entry_points(group="pytest11") if point.name == "modereg"}
    assert points == {"modereg.testing.plugin"}


def test_a_run_without_its_fixtures_imports_no_torch(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
        import sys

        def test_nothing_heavy(request):
            assert request.config.pluginmanager.has_plugin("modereg")
            assert not {HEAVY - {"numpy"}!r} & set(sys.modules)  # numpy is jaxtyping's
        """
    )
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)


def test_it_can_be_left_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(modereg_tiny_policy): pass")
    result = pytester.runpytest_subprocess("-p", "no:modereg")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'modereg_tiny_policy' not found"])


def test_its_fixtures_at_work(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
        import pytest

        from modereg import testing

        CHECKS = {[name for name in plugin.__all__ if "_check_" in name]!r}

        @pytest.mark.parametrize("name", CHECKS)
        def test_checks_are_the_functions(name, request):
            function = getattr(testing, name.removeprefix("modereg_"))
            assert request.getfixturevalue(name) is function

        def test_policy(
            modereg_check_generative_policy, modereg_tiny_policy, modereg_counting_env
        ):
            modereg_check_generative_policy(modereg_tiny_policy, modereg_counting_env.reset())

        def test_steered(modereg_steered_env):
            rollout = modereg_steered_env.rollout(2, break_when_any_done=False)
            assert rollout["latent"].max() < 4
            assert rollout["next", "action_chunk"].shape == (3, 2, 4, 2)

        def test_a_fault(
            modereg_check_generative_policy, modereg_tiny_policy, modereg_counting_env
        ):
            modereg_tiny_policy.decode = lambda noise, observation: 0 * noise
            modereg_check_generative_policy(modereg_tiny_policy, modereg_counting_env.reset())
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=8, failed=1)
    result.stdout.fnmatch_lines(["E *AssertionError: TinyPolicy does not depend on the noise*"])
