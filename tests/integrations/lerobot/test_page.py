"""The code of the tutorial on LeRobot runs, and shows what the page says that it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modereg.plugins import resolve_policy
from tests.docs.pages import run_page
from tests.integrations.lerobot import tiny


@pytest.mark.timeout(900)
def test_a_lerobot_policy(
    make: Callable[..., Any],
    backbone: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for part in tiny.make_smolvla(backbone):
        part.save_pretrained(tmp_path / "my_smolvla")
    made = run_page("tutorials/lerobot.md", monkeypatch, tmp_path)
    assert '"noise_scheduler_type": "DDIM"' in capsys.readouterr().out
    assert (made["policy"].noise_shape, made["policy"].chunk_shape) == ((8, 2), (4, 2))
    assert made["chunks"].shape == (1, 8, 6, 3)
    base, found = made["base"], made["found"]
    assert base.success > 0.9
    assert (base.present_modes, base.commandable_modes) == (4, 0)
    assert found.success > 0.9
    assert found.commandable_modes >= 3
    rollout = made["env"].rollout(1)
    loaded = resolve_policy("base")
    noise = torch.randn(256, 1, 8, 2)
    expected = made["policy"].decode_from(rollout, noise)
    torch.testing.assert_close(loaded.decode_from(rollout, noise), expected)
