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


def test_its_fixtures_are_documented(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--fixtures")
    lines = result.stdout.lines
    for name in plugin.__all__:
        place = next(i for i, line in enumerate(lines) if line.startswith(name))
        assert len(lines[place + 1].strip()) > 30, lines[place : place + 2]


def test_every_fixture_at_work(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from modereg.discovery import VariationalModeDiscoverer
        from modereg.estimators import CategoricalMI
        from modereg.testing import CountingEnv
        from modereg.transforms import LatentConditioner, NoiseAction

        def test_policy(
            modereg_check_generative_policy, modereg_tiny_policy, modereg_counting_env
        ):
            modereg_check_generative_policy(modereg_tiny_policy, modereg_counting_env.reset())

        def test_steered(modereg_steered_env):
            rollout = modereg_steered_env.rollout(2, break_when_any_done=False)
            assert rollout["latent"].max() < 4
            assert rollout["next", "action_chunk"].shape == (3, 2, 4, 2)

        def test_transform(modereg_check_transform):
            modereg_check_transform(lambda: LatentConditioner(4), contexts=["batched"])

        def test_task(modereg_check_task):
            modereg_check_task(lambda: CountingEnv(4), max_steps=4)

        def test_estimator(modereg_check_estimator):
            modereg_check_estimator(lambda: CategoricalMI(6, 4), 6, learn=False)

        def test_discoverer(modereg_check_discoverer):
            modereg_check_discoverer(
                lambda: VariationalModeDiscoverer(CategoricalMI(6, 4), lr=1e-2, batch_size=64),
                6, episodes=60, rounds=8,
            )

        def test_a_fault_is_found(modereg_check_generative_policy, modereg_tiny_policy):
            modereg_tiny_policy.decode = lambda noise, observation: 0 * noise
            observations = CountingEnv((3, 7, 4)).reset()
            modereg_check_generative_policy(modereg_tiny_policy, observations)
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=6, failed=1)
    result.stdout.fnmatch_lines(["E *AssertionError: TinyPolicy does not depend on the noise*"])
