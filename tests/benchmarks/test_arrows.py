"""The picture of fine-tuners: an arrow from the base to each result."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.support.arrows import write_arrows


def _row(method: str, learner: str | None, success: float, entropy: float, seed: int = 0) -> dict:
    figures = {"success": success, "entropy": entropy, "seed": seed}
    return {"method": method, "learner": learner} | figures


def test_every_result_is_drawn_and_a_base_is_needed(tmp_path: Path) -> None:
    rows = [
        _row("base", None, 0.6, 0.9),
        _row("plain", "ppo", 1.0, 0.0),
        _row("new", "new", 0.4, 1),
    ]
    path = tmp_path / "folder" / "arrows.png"
    write_arrows(path, rows)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(KeyError):
        write_arrows(path, [*rows, _row("plain", "ppo", 1.0, 0.0, seed=1)])
