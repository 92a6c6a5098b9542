"""The tutorial on ManiSkill runs, in the process of ManiSkill's tests."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import pytest

import modereg
from tests.docs.pages import run_page


def test_the_tutorial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mani_skill.utils.registration import REGISTERED_ENVS

    fewer = modereg.ClusterModeDiscoverer.__init__.__kwdefaults__
    monkeypatch.setitem(fewer, "min_successes", 20)
    smaller = {"task.make_env(8)": "task.make_env(4)", "episodes=512": "episodes=96"}
    try:
        made = run_page("tutorials/maniskill.md", monkeypatch, tmp_path, smaller)
    finally:
        REGISTERED_ENVS.pop("EitherSide-v1", None)
        gymnasium.registry.pop("EitherSide-v1", None)
    assert made["figures"][0]["only_successes"] == 1.0
    assert made["figures"][-1]["hits"] > 0.5
    assert sorted(made["shown"].modes.tolist()) == [0, 1, 2]
    assert made["shown"].success.all()
    made["env"].close()
