from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modereg.cli import main
from modereg.commands import sweep as module
from modereg.commands.sweep import sweep
from modereg.errors import ConfigurationError
from modereg.recipes.config import SweepConfig

BASE = "--base tests.recipes.tiny:heading"
TEXT = f"""
seeds: [0, 1]
tasks:
  mixture: --task.name task:gaussian_mixture --task.num-envs 64
methods:
  base: evaluate {BASE} --episodes 64
  plain: finetune {BASE} --env-steps 3000 --eval-every 1 --eval-episodes 64 --final-episodes 64
"""
ROOT = Path(__file__).parents[2]


def test_an_interrupted_sweep_comes_to_the_same_table(tmp_path: Path) -> None:
    (tmp_path / "many.yaml").write_text(TEXT)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert started(tmp_path, whole).wait() == 0
    for _ in range(2):
        broken = started(tmp_path, parts)
        number = len(list(parts.rglob("*.log")))
        while broken.poll() is None and len(list(parts.rglob("*.log"))) == number:
            time.sleep(0.02)
        broken.send_signal(signal.SIGTERM)
        assert broken.wait() in (0, 143)
    assert started(tmp_path, parts).wait() == 0
    tables = [json.loads((folder / "sweep.json").read_text())["rows"] for folder in (whole, parts)]
    assert tables[0] == tables[1]
    assert [row["method"] for row in tables[0]] == ["base", "base", "plain", "plain"]
    assert all(0 < row["success"] <= 1 and row["present_modes"] for row in tables[0])
    page = (whole / "sweep.md").read_text()
    assert "| mixture | plain | 2 | " in page
    assert (whole / "mixture" / "page" / "index.html").exists()


def started(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    words = ["sweep", str(folder / "many.yaml"), "--out", str(out), "--trust-code"]
    return subprocess.Popen(
        [sys.executable, "-m", "modereg.cli", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )


def test_what_failed_is_named_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    text = TEXT.replace("[0, 1]", "[0]").replace(f"finetune {BASE}", "finetune --base nowhere")
    (tmp_path / "many.yaml").write_text(text)
    words = ["sweep", str(tmp_path / "many.yaml"), "--out", str(tmp_path / "out"), "--trust-code"]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert "mixture/plain/0: failed: modereg: " in shown.out
    assert "1 failed or wait for one that did: mixture/plain/0" in shown.err
    rows = json.loads((tmp_path / "out" / "sweep.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["base"]

    monkeypatch.setattr(module, "run_commands", lambda commands, *_: started.extend(commands))
    started: list[str] = []
    config = SweepConfig(tmp_path / "many.yaml", tmp_path / "out", page=False, trust_code=True)
    sweep(config)
    assert started == ["mixture/plain/0"], "what is there is not run again"
    (tmp_path / "many.yaml").write_text(text.replace("64\n  plain", "65\n  plain"))
    sweep(config)
    assert started[1:] == ["mixture/base/0", "mixture/plain/0"], "judged by other episodes"


def test_a_folder_of_other_options_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "mixture" / "plain" / "0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("eval_episodes: 7\n")
    (folder / "checkpoint.pt").write_text("")
    (tmp_path / "many.yaml").write_text(TEXT)
    config = SweepConfig(tmp_path / "many.yaml", tmp_path / "out", trust_code=True)
    with pytest.raises(ConfigurationError, match="a run with other options"):
        sweep(config)


def test_figures_over_seeds() -> None:
    assert module._over_seeds([None, None]) == ""
    assert module._over_seeds([0.25]) == "0.250"
    assert module._over_seeds([0.5, 1.0]) == "0.750 (0.500 to 1.000)"
    assert module._over_seeds([0.5] * 5) == "0.500 [0.500, 0.500]"
