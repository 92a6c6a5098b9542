"""The tutorial on vision-language-action policies runs, and shows what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from modereg.plugins import resolve_policy
from tests.docs.pages import run_page


def test_a_vision_language_action_policy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smaller = {"demonstrate(600": "demonstrate(12", "steps = 2000": "steps = 4"}
    smaller["make_env(256)"] = "make_env(8)"
    made = run_page("tutorials/vla.md", monkeypatch, tmp_path, smaller)
    shapes = {name: tuple(value.shape) for name, value in made["inputs"].items()}
    assert shapes["pixel_values"] == (8, 2, 3, 28, 28)
    assert shapes["input_ids"] == (8, 2 * 4 + made["start"]["language_instruction"].shape[-1])
    assert made["rollout"]["next", "action_chunk"].shape == (8, 9, 6, 2)
    assert resolve_policy("base").fingerprint() == made["policy"].fingerprint()
    assert "torch.Size([8, 3, 28, 28])" in capsys.readouterr().out
