r"""What ``inspect`` predicts of the base's episodes alone, beside what stage 1 then does.

    python benchmarks/prediction.py --json benchmarks/results/prediction.json

One point a policy: the reach that is predicted of the best of 16 noises, and the share of its
episodes in which a code of stage 1 then reached itself, each a mean over codes. The policies are
those of ``foreign_policies.py``, whose runs are made or taken up: on four beds, in other weather,
with a noise that is not read or hardly, and two whose bases modereg made. A policy counts as
steerable if all but a tenth of its codes command (hits of .8), as not steerable if at most a tenth
do, and else as partly so; the prediction's line is a reach of .5. Where nothing tells the base's
episodes from one bundle, there is one behaviour and nothing to steer.

Rows: task, predicted_reach, hits, predicted_commandable, predicted_codes, commanding (codes, at the
end), codes, predicted and found (yes, partly, no or one), and right.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
from foreign_policies import BEDS, FURTHER, SMOKE, Budget, Session
from scipy.stats import spearmanr
from support.results import write_results

from modereg.files import read_json

mpl.use("Agg")
from matplotlib import pyplot as plt

MOST = 0.9


def verdict(able: int, codes: int) -> str:
    """Return whether a policy is steerable: yes, partly or no; or one, if it has one behaviour."""
    if codes == 1:
        return "one"
    share = able / codes
    return "yes" if share >= MOST else "no" if share <= 1 - MOST else "partly"


def compared(session: Session) -> dict[str, Any] | None:
    """Return the row of a policy, or None where it was not run."""
    path = session.runs / "stage1" / "summary.json"
    said = [row for row in session.rows() if "predicted_reach" in row and row["method"] == "stage1"]
    if not path.exists() or not said:
        return None
    (row,), summary = said, read_json(path)
    codes, several = summary["verdict"]["codes"], summary["partition"]["suggested_modes"]
    commanding = sum(code["commands"] for code in codes)
    predicted = verdict(row["predicted_commandable"], row["predicted_codes"])
    found = verdict(commanding, len(codes)) if several > 1 else "one"
    return {
        "task": session.name,
        "predicted_reach": row["predicted_reach"],
        "hits": row["hits"],
        "predicted_commandable": row["predicted_commandable"],
        "predicted_codes": row["predicted_codes"],
        "commanding": commanding,
        "codes": len(codes),
        "predicted": predicted,
        "found": found,
        "right": predicted == found,
    }


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """Draw the scatter."""
    figure, ax = plt.subplots(figsize=(5, 4.4), layout="constrained")
    for row in rows:
        place = (row["predicted_reach"], row["hits"])
        ax.plot(*place, "o" if row["right"] else "x", color="C0" if row["right"] else "C3")
        ax.annotate(row["task"], place, xytext=(4, 4), textcoords="offset points", fontsize=8)
    ax.plot([0, 1], [0, 1], color=".8", zorder=0)
    ax.set(xlim=(0, 1.12), ylim=(0, 1.05), xlabel="predicted reach", ylabel="hits after stage 1")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Run what is missing, and write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(BEDS | FURTHER))
    parser.add_argument("--out", type=Path, help="folder of the runs, of foreign_policies.py")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, one task")
    args = parser.parse_args()
    out = args.out or Path("runs") / ("foreign_smoke" if args.smoke else "foreign_policies")
    rows = []
    for task in args.tasks[:1] if args.smoke else args.tasks:
        session = Session(out, task, 0, SMOKE if args.smoke else Budget())
        session.train()
        for method in ("base", "inspect", "stage1"):
            session.do(method)
        rows += [row for row in [compared(session)] if row is not None]
    both = [[row[name] for row in rows] for name in ("predicted_reach", "hits")]
    result: dict[str, Any] = {"right": sum(row["right"] for row in rows), "of": len(rows)}
    if len(rows) > 2:
        result["rank_correlation"] = round(float(spearmanr(*both).statistic), 3)
    if args.json is not None and rows:
        write_results(args.json, "What inspect predicts", result | {"rows": rows})
        draw(args.json.with_suffix(".png"), rows)
    print(result, *rows, sep="\n")


if __name__ == "__main__":
    main()
