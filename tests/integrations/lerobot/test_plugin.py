"""The loader knows LeRobot's folders by their config.json alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modereg.plugins import policy_loader


@pytest.mark.parametrize("kind", ["diffusion", "smolvla", "pi0", "act"])
def test_folders_of_lerobot_are_claimed(kind: str, tmp_path: Path) -> None:
    config = {"type": kind, "input_features": {}, "output_features": {}, "n_obs_steps": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert policy_loader("lerobot").can_load(tmp_path)
    assert not policy_loader("transformers").can_load(tmp_path)


def test_other_folders_are_not(tmp_path: Path) -> None:
    loader = policy_loader("lerobot")
    assert not loader.can_load(tmp_path)
    for text in ("{", "[]", '{"model_type": "pi0"}', '{"type": "diffusion"}'):
        (tmp_path / "config.json").write_text(text)
        assert not loader.can_load(tmp_path)
