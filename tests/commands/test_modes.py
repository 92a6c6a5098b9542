from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchrl.envs.utils import ExplorationType, set_exploration_type

from modereg import CommandedPolicy, keys
from modereg.checkpoints import load_adapter, save_adapter
from modereg.cli import main
from modereg.commands import modes as module
from modereg.commands.modes import export, modes, table
from modereg.errors import CheckpointError, ConfigurationError
from modereg.modes import modes_of
from modereg.recipes import finetune as recipe
from modereg.recipes.config import (
    DiscoverConfig,
    EvaluateConfig,
    ExportConfig,
    ModesConfig,
    ReportConfig,
)
from modereg.recipes.config.text import read_config
from modereg.recipes.evaluate import evaluate
from modereg.recipes.follow import discover, finetune
from modereg.recipes.setup import set_up
from modereg.recipes.subspace import load_run
from modereg.report.folders import commands
from tests.recipes.conftest import TASK, finetune_config, read_summary


@pytest.fixture
def run(clusters: Path, tmp_path: Path) -> Path:
    """A finished stage 1 of its own."""
    shutil.copytree(clusters, tmp_path / "stage1")
    return tmp_path / "stage1"


def listing(run: Path, **options: Any) -> dict[str, Any]:
    return modes(ModesConfig(str(run), **({"picture": False} | options)))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_run_lists_its_modes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["modes", str(run), "--json", str(run / "modes.json")]) == 0
    printed = capsys.readouterr().out
    result, summary = json.loads((run / "modes.json").read_text()), read_summary(run)
    figures, probs = summary["sampled"], load_adapter(run / "adapter").prior.probs
    assert printed.strip() == table(result)
    assert result["run"] == str(run)
    assert (run / "modes.png").read_bytes().startswith(b"\x89PNG")
    assert result["picture"] == str(run / "modes.png")
    assert f"Picture: {result['picture']}" in printed
    for row, verdict in zip(result["modes"], summary["verdict"]["codes"], strict=True):
        code = verdict["code"]
        assert (row["mode"], row["codes"]) == (str(code), [code])
        assert row["share"] == pytest.approx(float(probs[code]))
        assert row["hits"] == pytest.approx(verdict["hits"], abs=1e-6)
        assert row["success"] == figures["per_code_success"][code]
        assert row["return"] == figures["per_code_return"][code]
        assert (row["commands"], row["reason"]) == (verdict["commands"], verdict["reason"])
    blocked = result["blocked"]
    assert blocked["tries"] == 3
    assert 0 < blocked["once"] < blocked["replanned"] <= 1
    assert f"is blocked: success {blocked['once']:.2f}, and {blocked['replanned']:.2f}" in printed


def test_a_table_by_hand() -> None:
    row = {"mode": "0", "codes": [0], "share": 0.5, "hits": None, "success": None, "return": -1.0}
    left = {"mode": "left", "codes": [1, 3], "share": 0.5, "hits": 0.9, "success": 1.0, "return": 2}
    shown = table(
        {
            "modes": [
                row | {"commands": None, "reason": ""},
                left | {"commands": False, "reason": "fails"},
            ],
            "blocked": None,
            "picture": None,
        }
    )
    assert shown.splitlines() == [
        "mode  codes  share  hits  success  return  commands",
        "0     0       0.50     –        –   -1.00  –",
        "left  1 3     0.50  0.90     1.00    2.00  no: fails",
    ]


def test_an_edited_copy(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a merged mode hits is by hand: its codes' episodes that q reads as any of them."""
    before, out = files(run), tmp_path / "edited"
    words = "--name 0=left 1=right --merge left 2 --drop 3 --favour right=2 --no-picture"
    assert main(["modes", str(run), *words.split(), "--out", str(out)]) == 0
    assert files(run) == before
    adapter, old = load_adapter(out / "adapter"), load_adapter(run / "adapter")
    named = {mode.name: mode for mode in modes_of(adapter)}
    assert {name: mode.codes for name, mode in named.items()} == {
        "left": (0, 2),
        "right": (1,),
        **{str(code): (code,) for code in range(3, old.prior.num_codes)},
    }
    weights = old.prior.probs.clone()
    weights[1] *= 2
    weights[3] = 0
    torch.testing.assert_close(adapter.prior.probs, weights / weights.sum())
    figures = read_summary(run)["sampled"]
    counts = torch.tensor(figures["code_table"]).double()
    tried = torch.tensor(figures["code_shares"]).double() * figures["episodes"]
    hits = counts[:, [0, 2]].sum(1) / tried
    expected = (weights[0] * hits[0] + weights[2] * hits[2]) / (weights[0] + weights[2])
    rows = {row["mode"]: row for row in listing(out)["modes"]}
    assert rows["left"]["hits"] == pytest.approx(float(expected))
    assert rows["left"]["codes"] == [0, 2]
    assert (rows["3"]["share"], rows["3"]["reason"]) == (0.0, "dropped")
    assert rows["3"]["commands"] is False
    assert rows["3"]["success"] is not None
    shown = capsys.readouterr().out
    assert "no: dropped" in shown
    assert sorted(files(out)) == [
        "adapter/modereg_config.json",
        "adapter/modereg_model.safetensors",
        "config.yaml",
        "edited.json",
        "versions.json",
    ]
    listing(out, name=("left=west",), out=tmp_path / "again", picture=True)
    again = tmp_path / "again"
    assert [mode.name for mode in modes_of(load_adapter(again / "adapter"))][:2] == [
        "west",
        "right",
    ]
    assert (again / "modes.png").exists()  # of the episodes that the first run kept
    said = shlex.join(["modereg", "modes", str(run), *words.split()[:-1], "--out", str(out)])
    assert commands([out])[-1] == said
    with pytest.raises(
        ConfigurationError, match="if its modes were edited, judge it with evaluate"
    ):
        module_report(out)
    assert evaluate(EvaluateConfig(run=str(out), episodes=64))["sampled"]["code_shares"][3] == 0.0


def module_report(folder: Path) -> None:
    from modereg.commands.report import report

    report(ReportConfig((str(folder),)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--name 0=left 9=right", "expected one of the modes left, 1, 2"),
        ("--name left", "expected --name MODE=VALUE, each mode once, got left"),
        ("--name 0=a 0=b", "expected --name MODE=VALUE, each mode once, got 0=a 0=b"),
        ("--name 0=a 1=a", "expected another name for mode 1 than 'a', which one has already"),
        ("--merge 1 1", "expected two or more different modes to merge, got '1', '1'"),
        ("--favour 1=often", "expected --favour MODE=NUMBER, such as left=2, got 1=often"),
        ("--favour 1=-2", "expected a positive factor to favour '1' by, got -2.0"),
        ("--drop 0 1 2 3 4 5 6 7 8 9", "expected one of the modes"),
    ],
)
def test_what_cannot_be_leaves_nothing_behind(
    options: str, sentence: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = files(run), tmp_path / "edited"
    assert main(["modes", str(run), *options.split(), "--out", str(out)]) == 1
    assert sentence in capsys.readouterr().err
    assert files(run) == before
    assert not out.exists()


def test_all_modes_dropped(run: Path, tmp_path: Path) -> None:
    every = tuple(map(str, range(load_adapter(run / "adapter").prior.num_codes)))
    with pytest.raises(ConfigurationError, match="expected a mode that is left to draw"):
        listing(run, drop=every, out=tmp_path / "edited")


@pytest.mark.parametrize("options", [{"drop": ("1",)}, {"out": Path("x")}])
def test_edits_and_a_new_folder_go_together(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected --out, a new folder, with what is"):
        ModesConfig("runs/a", **options)


def test_nothing_is_overwritten(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    listing(run, drop=("1",), out=tmp_path / "empty")
    for out in (run, tmp_path / "empty"):
        with pytest.raises(
            ConfigurationError, match="expected a new folder, got .* which is there"
        ):
            listing(run, drop=("1",), out=out)
    with pytest.raises(ConfigurationError, match="which is there"):
        export(ExportConfig(str(run), ("1",), run))
    config = read_config(run)
    assert isinstance(config, DiscoverConfig)
    with pytest.raises(ConfigurationError, match="holds the modes of another run, edited"):
        discover(replace(config, out=tmp_path / "empty", resume=True))


def test_an_interrupted_edit_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_adapter", interrupted)
    with pytest.raises(KeyboardInterrupt):
        listing(run, drop=("1",), out=tmp_path / "edited")
    assert [path.name for path in tmp_path.iterdir()] == ["stage1"]


def test_a_run_without_an_adapter_is_refused(cloned: Path, run: Path) -> None:
    with pytest.raises(ConfigurationError, match="without an adapter; repeat its command"):
        listing(cloned)
    (run / "summary.json").unlink()
    with pytest.raises(CheckpointError, match=r"summary\.json, found none"):
        listing(run)


def test_without_kept_episodes_there_is_no_picture(run: Path) -> None:
    for path in run.glob("paths-*"):
        path.unlink()
    assert listing(run, picture=True)["picture"] is None
    assert not (run / "modes.png").exists()


def test_code_that_a_run_names_is_run_on_request_alone(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("base: ", "base: tests.recipes.tiny:policy #", 1))
    assert listing(run)["modes"]
    with pytest.raises(ConfigurationError, match="add --trust-code if you trust"):
        listing(run, picture=True)


def test_a_policy_that_is_not_there_is_for_the_picture_alone(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("base: ", "base: nowhere/policy #", 1))
    assert listing(run)["modes"]
    with pytest.raises(ConfigurationError, match=r"'nowhere/policy' is no folder\. --no-picture"):
        listing(run, picture=True)


def test_a_run_of_before_lists_what_it_knows(run: Path) -> None:
    """Whose summary has no table of what q reads, and no label."""
    summary = read_summary(run)
    del summary["sampled"]["code_table"], summary["verdict"]
    (run / "summary.json").write_text(json.dumps(summary))
    result = listing(run)
    assert {row["hits"] for row in result["modes"]} == {None}
    assert {row["commands"] for row in result["modes"]} == {None}
    assert result["blocked"] is not None
    summary["sampled"] |= {"code_mode_table": None, "mode_shares": None}
    (run / "summary.json").write_text(json.dumps(summary))
    assert listing(run)["blocked"] is None


def test_what_does_not_command_says_what_it_does() -> None:
    """By hand: of ten episodes of code 0 three are read as 0, five as 1, and two fail."""
    figures = {
        "episodes": 20,
        "code_shares": [0.5, 0.5],
        "code_table": [[3, 5], [1, 2]],
        "per_code_success": [0.8, 0.3],
        "per_code_return": [1.0, 0.5],
    }
    both = [module.Mode(str(code), (code,), (0.5,)) for code in range(2)]
    rows = [module._row(mode, both, {"sampled": figures}) for mode in both]
    assert [(row["hits"], row["commands"], row["reason"]) for row in rows] == [
        (pytest.approx(0.3), False, "shows 1"),
        (pytest.approx(0.2), False, "fails"),
    ]
    (one,) = [module.Mode("all", (0, 1), (0.75, 0.25))]
    row = module._row(one, [one], {"sampled": figures})
    assert row["hits"] == pytest.approx(0.75 * 0.8 + 0.25 * 0.3)
    assert row["success"] == pytest.approx(0.75 * 0.8 + 0.25 * 0.3)
    assert row["return"] == pytest.approx(0.875)


def test_without_a_label_what_q_reads_is_blocked() -> None:
    """By hand: two modes, one of two codes that are taken for each other; a third was dropped."""
    figures = {
        "episodes": 40,
        "code_shares": [0.25] * 4,
        "code_table": [[4, 0, 5, 0], [0, 8, 0, 0], [4, 0, 4, 0], [0, 9, 0, 0]],
    }
    left, right = module.Mode("left", (0, 2), (0.25, 0.25)), module.Mode("right", (1,), (0.5,))
    found = module._blocked([left, right, module.Mode("3", (3,), (0.0,))], figures)
    once = [0.5 * 0.8, 0.25 * 0.9 + 0.25 * 0.8]  # where left is blocked, and where right is
    # code 0 is tried first; that it failed says left, so code 1 is, and once more (.176 to .108)
    replanned = [1 - 0.2 * 0.2, 0.9]
    assert found == {
        "tries": 3,
        "once": pytest.approx(sum(once) / 2),
        "replanned": pytest.approx(sum(replanned) / 2),
    }


def test_finetune_draws_what_is_left(
    run: Path, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "edited"
    listing(run, name=("0=left",), merge=(("left", "2"),), drop=("1",), out=out)
    drawn, paid, learn = [], [], recipe.learn

    def seen(stage: Any, batch: Any) -> dict[str, float]:
        drawn.append(batch[keys.LATENT].unique())
        figures = learn(stage, batch)
        paid.append(figures["mi_reward"])
        return figures

    monkeypatch.setattr(recipe, "learn", seen)
    start = read_summary(run)["env_steps"]
    summary = finetune(finetune_config(base, tmp_path / "tuned", start + 2000, start=str(out)))
    assert len(drawn) >= 2
    assert not any(bool((codes == 1).any()) for codes in drawn)
    assert torch.isfinite(torch.tensor(paid)).all()
    for way in ("sampled", "deterministic"):
        assert summary[way]["code_shares"][1] == 0.0
        assert summary[way]["per_code_success"][1] is None
    tuned = load_adapter(tmp_path / "tuned" / "adapter")
    assert modes_of(tuned) == modes_of(load_adapter(out / "adapter"))
    assert tuned.estimator is not None
    assert tuned.estimator.options() == {"merged": [[0, 2]]}
    assert summary["worse_than_base"] == []  # nobody misses the code that was dropped
    rows = {row["mode"]: row for row in listing(tmp_path / "tuned")["modes"]}
    assert rows["left"]["hits"] > 0.5
    assert (rows["1"]["reason"], rows["1"]["commands"]) == ("dropped", False)
    assert rows["1"]["hits"] is rows["1"]["success"] is None  # it was not played
    assert any(
        line.startswith(f"modereg modes {run} --name 0=left")
        for line in commands([tmp_path / "tuned"])
    )


def test_what_is_exported_plays_what_the_steered_environment_plays(
    run: Path, base: str, tmp_path: Path
) -> None:
    listing(run, name=("1=left",), out=tmp_path / "named")
    result = export(ExportConfig(str(tmp_path / "named"), ("left",), tmp_path / "left"))
    assert result == {"policy": str(tmp_path / "left"), "modes": ["left"]}
    setup = set_up(TASK, base)
    adapter, setup = load_run(run, setup)
    policies = [
        CommandedPolicy(setup.base, tmp_path / "left"),
        CommandedPolicy(setup.base, tmp_path / "named", "left"),
        CommandedPolicy(setup.base, run, 1),
    ]
    env = setup.steered(adapter.prior, 1.0)
    adapter.steering.head.steer_all()  # a code that plays the base is drawn
    for policy in policies:
        policy.steering.head.steer_all()
    env.set_seed(0)
    with (
        env.transform[-1].force(1),
        set_exploration_type(ExplorationType.DETERMINISTIC),
        torch.no_grad(),
    ):
        root = adapter.steering(env.reset())
        played = env.step(root)["next", keys.CHUNK]
    for policy in policies:
        assert torch.equal(policy(root.clone())[keys.CHUNK], played)
    with pytest.raises(ConfigurationError, match="expected one of the modes left, got 'right'"):
        CommandedPolicy(setup.base, tmp_path / "left", "right")
    shares = evaluate(EvaluateConfig(run=str(tmp_path / "left"), episodes=64))["sampled"]
    assert shares["code_shares"][1] == 1.0
    with pytest.raises(ConfigurationError, match="expected one of the modes left, got '0'"):
        export(ExportConfig(str(tmp_path / "left"), ("0",), tmp_path / "other"))


def test_several_modes_may_be_exported(run: Path, tmp_path: Path) -> None:
    words = ["export", str(run), "--mode", "0", "2", "--out", str(tmp_path / "two")]
    assert main(words) == 0
    shares = [mode.share > 0 for mode in modes_of(load_adapter(tmp_path / "two" / "adapter"))]
    assert [code for code, kept in enumerate(shares) if kept] == [0, 2]


def test_an_exported_mode_of_another_base_is_refused(run: Path, tmp_path: Path) -> None:
    from tests.recipes.tiny import policy

    export(ExportConfig(str(run), ("0",), tmp_path / "one"))
    with pytest.raises(CheckpointError, match="steers the base policy"):
        CommandedPolicy(policy(), tmp_path / "one")
    adapter = load_adapter(tmp_path / "one" / "adapter")
    save_adapter(tmp_path / "copy" / "adapter", adapter)
    assert load_adapter(tmp_path / "copy" / "adapter").digest == adapter.digest
