"""The report as a reader sees it: screenshots of pages about finished runs.

    python benchmarks/report_pages.py --json benchmarks/results/report_pages.json

On Avoid: a base policy, its modes, plain fine-tuning and modereg with two seeds each, by the
command line. Then three pages: of two runs side by side (``two``), of all four (``seeds``), and of
the two in an Avoid that can be seen, so that there are filmstrips (``films``). Each is looked at in
chromium: in light and dark at 1280 pixels, on a phone of 400 pixels, and as it is printed on A4.
The pictures go to a folder ``report`` beside the JSON file; ``--runs`` names a folder for the runs,
and what is finished there is not run again.

Each row: page; view; width, pixels of the window; height, pixels of the page; kilobytes, of the
page, pictures included; hidden, pixels by which it is wider than the window; complaints, of the
browser's console; picture, its file, of the views that are kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from support.results import write_results
from support.seen_avoid import seen_avoid_task

from modereg.recipes.config import TaskConfig
from modereg.recipes.evaluate import evaluate_policy
from modereg.recipes.setup import set_up
from modereg.report import ReportEntry, write_report

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.report.browser import Browser, find_browser, open_browser

CLI = [sys.executable, "-c", "import sys; from modereg.cli import main; sys.exit(main())"]
TASK = ["--task.name", "task:avoid", "--log.no-progress"]
HIDDEN = "document.documentElement.scrollWidth - document.documentElement.clientWidth"

LABELS = {"plain": "plain fine-tuning", "regularised": "with modereg"}


@dataclass
class View:
    """How a page is looked at; only so many pixels of its height are kept.

    Attributes:
        name: of the view.
        width: of the window, pixels.
        keep: of the page, pixels.
        scheme: light or dark.
        media: the screen, or print.
    """

    name: str
    width: int
    keep: int
    scheme: str = "light"
    media: str = ""


VIEWS = (
    View("light", 1280, 4200),
    View("dark", 1280, 2300, "dark"),
    View("phone", 400, 3000),
    View("print", 718, 2030, "dark", "print"),
)


KEPT = {
    "two": ("light", "dark", "phone", "print"),
    "seeds": ("light",),
    "films": ("light", "phone"),
}
"""The views of each page of which a picture is kept."""


def run(arguments: list[str], out: Path, done: str = "summary.json") -> Path:
    """Run a command unless its folder has what it leaves at its end; return the folder."""
    if not (out / done).exists():
        subprocess.run([*CLI, *arguments, "--out", str(out)], stdout=subprocess.DEVNULL, check=True)
        print(f"{arguments[0]} {out.name} done", flush=True)
    return out


def make_runs(folder: Path, smoke: bool) -> dict[str, list[Path]]:
    """Run what the pages are about; return the runs of each page."""
    task = [*TASK, "--task.num-envs", "64" if smoke else "512"]
    clone, find, tune = [], [], ["--env-steps", "2500000", "--eval-every", "5"]
    if smoke:
        clone = ["--steps", "200", "--episodes", "50", "--hidden", "32", "32"]
        find = ["--method.episodes", "256", "--method.outcome-steps", "50"]
        find += ["--method.refinements", "1", "--method.refine-episodes", "64"]
        find += [
            "--method.guide-steps",
            "20",
            "--method.student-steps",
            "50",
            "--num-codes",
            "8",
            "--final-episodes",
            "64",
        ]
        tune = ["--env-steps", "60000", "--eval-every", "5"]
        tune += ["--eval-episodes", "64", "--final-episodes", "64"]
    base = run(["pretrain", *task, *clone], folder / "base")
    policy = ["--base", str(base / "policy"), *task]
    found = run(["discover", *policy, *find], folder / "discover")
    start = ["--start", str(found), "--accept-uncommanded"]
    runs = {
        f"{method}/s{seed}": run(
            ["finetune", *policy, *tune, *how, "--seed", str(seed)], folder / method / f"s{seed}"
        )
        for seed in range(1 if smoke else 2)
        for method, how in (("plain", []), ("regularised", start))
    }
    pages = {"two": [runs["plain/s0"], runs["regularised/s0"]]}
    return pages if smoke else pages | {"seeds": list(runs.values())}


def film_page(out: Path, runs: list[Path]) -> Path:
    """Write a page with filmstrips of runs on Avoid; return its folder."""
    setup = replace(
        set_up(TaskConfig(num_envs=512), str(runs[0].parents[1] / "base" / "policy")),
        task=seen_avoid_task(),
    )
    judged, _ = evaluate_policy(
        setup, setup.steered(1, 1.0), None, num_codes=1, episodes=1024, seed=0
    )
    entries = [ReportEntry("base", "base policy", None, {"sampled": judged})]
    entries += [ReportEntry(run.parent.name, LABELS[run.parent.name], run) for run in runs]
    write_report(out, setup, entries, title="modereg: Avoid, seen from above")
    return out


def look(browser: Browser, page: Path, name: str, view: View, out: Path | None) -> dict[str, Any]:
    """Load a page, keep a picture of it, and return what can be said in figures."""
    browser.complaints.clear()
    browser.show(page, view.width, scheme=view.scheme, media=view.media)
    shot = browser.screenshot()
    picture = f"{name}_{view.name}.png"
    kept = out is not None and view.name in KEPT[name]
    if out is not None and kept:
        save(shot[: view.keep], out / picture)
    return {
        "page": name,
        "view": view.name,
        "width": view.width,
        "height": len(shot),
        "kilobytes": page.stat().st_size // 1000,
        "hidden": browser.evaluate(HIDDEN),
        "complaints": len(browser.complaints),
        "picture": picture if kept else None,
    }


def save(shot: np.ndarray, path: Path) -> None:
    """Write a screenshot ``[H, W, 3]`` in [0, 1] with the 256 colours that cover it best."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    whole = Image.fromarray((255 * shot).round().astype(np.uint8))
    how = Image.Quantize.MAXCOVERAGE
    whole.quantize(256, method=how, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Run, report, look, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, to see that it runs")
    parser.add_argument("--runs", type=Path, help="folder of the runs; else one that is removed")
    args = parser.parse_args()
    if find_browser() is None:
        parser.error("no chromium on the PATH; install one (on Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as name:
        folder, rows = args.runs or Path(name) / "runs", []
        pages_runs = make_runs(folder, args.smoke)
        pages = {
            page: run(
                ["report", *map(str, runs), "--log.no-progress"], folder / f"page_{page}", "never"
            )
            for page, runs in pages_runs.items()
        }
        pages["films"] = film_page(folder / "page_films", pages_runs["two"])
        out = None if args.json is None else args.json.parent / "report"
        with open_browser(Path(name) / "profile") as browser:
            for page, where in pages.items():
                for view in VIEWS:
                    rows.append(look(browser, where / "index.html", page, view, out))
                    print(rows[-1], flush=True)
    write_results(args.json, "The report, looked at", {"rows": rows})


if __name__ == "__main__":
    main()
