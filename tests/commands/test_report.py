from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from modereg.cli import main
from modereg.commands.report import _common, report, report_run
from modereg.recipes.config import FinetuneConfig, ReportConfig
from modereg.recipes.config.text import read_config
from modereg.report import episodes
from modereg.report.folders import command


def copy_of(folder: Path, to: Path, old: str, new: str) -> Path:
    """Copy a run and change a line of its options."""
    shutil.copytree(folder, to)
    path = to / "config.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return to


def forget(*folders: Path) -> None:
    """Remove the episodes that reports have kept."""
    for folder in folders:
        for path in folder.glob("paths-*"):
            path.unlink()


def test_one_run_is_reported_in_its_folder(tuned: Path, tmp_path: Path) -> None:
    """As after the run itself, and after the stage 1 that it started from."""
    run = copy_of(tuned, tmp_path / "run", f"out: {tuned}", f"out: {tmp_path / 'run'}")
    page = Path(report(ReportConfig((str(run),)))["page"])
    assert page == run / "index.html"
    text = page.read_text()
    config = read_config(run)
    assert isinstance(config, FinetuneConfig)
    assert report_run(config).read_text() == text
    for words in ("base policy", "after stage 1", "with modereg", "weight of"):
        assert words in text
    for folder in (Path(config.base).parent, Path(config.start or ""), run):
        assert command(read_config(folder)) in unescape(re.sub("</?span>", "", text))


def test_two_runs_stand_side_by_side(
    cloned: Path,
    clusters: Path,
    tuned: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "both"
    forget(cloned, clusters, tuned)
    assert main(["report", str(clusters), str(tuned), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"page": str(out / "index.html")}
    lines = [line.partition(": ") for line in printed.err.splitlines()]
    phases = {phase: said for phase, _, said in lines}  # in order, with the last of each
    assert list(phases) == ["report, base", "report, trajectories", "report, pictures"]
    assert phases["report, base"].startswith("100% 128/128 [")
    assert phases["report, trajectories"].startswith("100% 256/256 [")  # of two runs
    assert phases["report, pictures"].endswith(" passed")
    text = (out / "index.html").read_text()
    labels = [f"{folder.parent.name}/{folder.name}" for folder in (clusters, tuned)]
    for label in labels:
        assert text.count(label) > 4
    assert f"{labels[0]} beside {labels[1]}" in text
    assert "Over seeds" not in text


def test_a_second_report_rolls_nothing_out(
    cloned: Path, clusters: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base's episodes are kept beside it, those of a run in its folder, till either changes."""
    rolled: list[int] = []
    evaluate = episodes.evaluate_policy

    def counted(*given: Any, **options: Any) -> Any:
        rolled.append(options["episodes"])
        return evaluate(*given, **options)

    monkeypatch.setattr(episodes, "evaluate_policy", counted)
    forget(cloned, clusters, tuned)
    config = ReportConfig((str(clusters), str(tuned)), tmp_path / "out")
    text = Path(report(config)["page"]).read_text()
    assert rolled == [128, 128, 128]
    assert Path(report(config)["page"]).read_text() == text
    assert rolled == [128, 128, 128]
    assert [len(list(folder.glob("paths-*"))) for folder in (cloned, clusters, tuned)] == [1] * 3
    copy = tmp_path / "retrained"
    shutil.copytree(tuned, copy)
    shutil.rmtree(copy / "adapter")
    shutil.copytree(clusters / "adapter", copy / "adapter")
    report(ReportConfig((str(copy),), tmp_path / "again"))
    assert rolled == [128] * 4  # the other adapter


def test_runs_that_differ_in_the_seed_alone_share_a_line(tuned: Path, tmp_path: Path) -> None:
    """Whether a run draws its own page changes no number either."""
    runs = [copy_of(tuned, tmp_path / f"s{i}", "\nseed: 0", f"\nseed: {i}") for i in range(2)]
    text = (runs[1] / "config.yaml").read_text()
    (runs[1] / "config.yaml").write_text(text.replace("\npage: true", "\npage: false"))
    runs.append(copy_of(tuned, tmp_path / "other", "\ntiming: null", "\ntiming: difference"))
    text = Path(report(ReportConfig(tuple(map(str, runs)), tmp_path / "out"))["page"]).read_text()
    assert "Over seeds" in text
    assert "s0, 2 seeds" in text
    assert "other, " not in text.split("Over seeds")[1].split("</table>")[0]


def test_seeds_are_named_by_the_folder_that_they_alone_lie_in() -> None:
    labels = ["plain/s0", "plain/s1", "mine/s0", "mine/s1", "alone/s0"]
    assert _common(labels, list("aabbc"), "a") == "plain"
    assert _common(labels, list("aabbc"), "c") == "alone/s0"
    assert _common(["s0", "s1", "other"], list("aab"), "a") == "s0"
    assert _common(["runs/s0", "runs/s1", "runs/other"], list("aab"), "a") == "runs/s0"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def become_nothing(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize("damage", [Path.unlink, cut, become_folder, become_loop, become_nothing])
@pytest.mark.parametrize(
    "name", ["modereg_config.json", "modereg_model.safetensors", "summary.json", "paths"]
)
def test_a_damaged_folder_is_named(
    name: str,
    damage: Callable[[Path], None],
    tuned: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The file and what is wrong with it, in one sentence, and no traceback."""
    run, out = copy_of(tuned, tmp_path / "run", "seed: 0", "seed: 0"), str(tmp_path / "out")
    if name == "paths" and not list(run.glob("paths-*")):
        report(ReportConfig((str(run),), Path(out)))
    (path,) = [path for path in run.rglob("*") if path.name.startswith(name)]
    damage(path)
    if name == "paths" and damage in (Path.unlink, become_loop):
        assert main(["report", str(run), "--out", out]) == 0  # rolled out again
        return
    assert main(["report", str(run), "--out", out]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("modereg: ")
    assert str(run) in said
    assert path.name in said


def test_what_cannot_be_reported(
    cloned: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(tuned / "config.yaml", unfinished)
    other = copy_of(tuned, tmp_path / "other", "base: ", "base: /elsewhere")
    for runs, sentence in [
        ([], "got none; name one"),
        ([cloned], "made a base; name a run on it"),
        ([unfinished], "without summary.json; repeat its command with --resume first"),
        ([tmp_path], "without one; name the --out of a run"),
        ([tuned, other], "report them one by one"),
    ]:
        assert main(["report", *map(str, runs)]) == 1
        assert sentence in " ".join(capsys.readouterr().err.split())
