r"""Policies that others trained, with nothing tuned: what stage 1 and fine-tuning make of them.

    python benchmarks/foreign_policies.py --json benchmarks/results/foreign_policies.json \\
        --tasks gusts calm maze rooms --seeds 0 1 2

The policies are made by plain scripts with the conventions of their own libraries, which know
nothing of modereg (``foreign/``, ``foreign_maze/``, ``foreign_rooms/``); ``my_policy.py`` beside
each is what a user writes. Every command runs with its defaults: no option of a method is set, only
the task is named, what the discoverer sees, and the budget of the fine-tuning. Nothing learns from
the label of the routes. A run that is interrupted goes on when the command is repeated.

Rows: task, method, seed, episodes, success, success_error (standard error), return, entropy (by the
log of the number of routes), modes (how many there are), present, commandable (of sampled noise;
``mean_`` by the mean noise), hits (share of its episodes in which a code of stage 1 reaches itself,
a mean), env_steps and cpu_seconds (those of stage 1 included), predicted_reach (the same figure, as
``inspect`` predicts it of the base's episodes alone), predicted_commandable and predicted_codes
(how many codes it counts on, of how many) and verdict.

- base: the policy as it is, and what ``inspect`` says of it.
- plain: PPO on the noise, one code, in the subspace that the decoder's responses choose. plain_sac:
  soft actor-critic on all of the noise.
- cluster: stage 1 by imitation of the noises of clusters.
- best_of: of 16 noises the one that the outcome model of the base's episodes likes best.
- stage1: guided discovery. residual: the same with a residual on the chunk of codes that no noise
  commands. stage2: soft actor-critic from stage1, with the intrinsic reward. stage2_residual: a
  residual on the chunks of all codes, learned from there on the same reward. stage2_resfit: one on
  each action when it is played. stage2_qf3: a copy of the denoiser's weights by the critic's
  gradient (QF3), where its steps are known (maze).

Beds beside the four have fewer rows: for the prediction (``prediction.py``) the crossing with other
gusts, and its policy with a noise that is not read (``fixed``) or hardly (``narrow``); and tasks
whose bases ``modereg pretrain`` makes, one a seed: Avoid, of equal demonstrations, of very unequal
ones and of one route alone, the maze of MuJoCo, a small PI0, and of ManiSkill the wall and the peg
that is lifted at either end, with 16 actions of 7 dimensions a chunk.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foreign_bases import BEDS as TRAINED
from foreign_bases import train
from support.best_of import best_of
from support.commands import cpu_seconds, run
from support.skewed_avoid import SKEWED

from modereg.discovery.verdict import NEARLY
from modereg.files import read_json, write_json

QUIET = ("--log.no-progress", "--log.no-tensorboard", "--no-page")
METHODS = (
    "base", "inspect", "stage1", "best_of", "residual", "plain", "plain_sac", "stage2",
    "stage2_residual", "stage2_resfit", "stage2_qf3", "cluster",
)  # fmt: skip
EVALUATED = ("base", "best_of")
SMOKED = ("base", "inspect", "stage1", "best_of", "stage2_residual")
FROM_STAGE1 = {
    "stage2": "sac",
    "stage2_residual": "residual",
    "stage2_resfit": "resfit",
    "stage2_qf3": "qf3",
}
"""The learners that go on from stage 1."""


@dataclass(frozen=True)
class Bed:
    """A policy that somebody else trained, with its environment.

    Attributes:
        folder: of the scripts.
        task: reference to the environment.
        options: of the task.
        modes: number of behaviours that the label tells apart.
        features: what the discoverer sees.
        dims: dimensions of it; none keeps all.
        envs: environments side by side.
        base: the policy; None lets ``modereg pretrain`` make it.
        pretrain: its options there.
    """

    folder: str
    task: str
    options: tuple[str | float, ...]
    modes: int
    features: tuple[str, ...]
    dims: tuple[int, ...] = ()
    envs: int = 256
    base: str | None = "my_policy:load"
    pretrain: dict[str, Any] = field(default_factory=dict)


CROSSING: dict[str, Any] = {
    "folder": "foreign",
    "task": "gymnasium:crossing:Crossing-v0",
    "modes": 6,
    "features": ("agent_pos",),
}
LABEL = ("with_route", "True", "mode_key", "route", "num_modes", 6)
BEDS = {
    "gusts": Bed(**CROSSING, options=("gusts", 7, *LABEL)),
    "calm": Bed(**CROSSING, options=("gusts", 0, *LABEL)),
    "maze": Bed(
        "foreign_maze", "gymnasium:maze:SixRoutes-v0", LABEL, 6, ("achieved_goal",), envs=128
    ),
    "rooms": Bed(
        "foreign_rooms", "gymnasium:rooms:Rooms-v0", LABEL, 6, ("observation",), (0, 1), envs=128
    ),
}
PI0 = {
    "library": "transformers",
    "method": "flow",
    "hidden": (32, 32),
    "inference_steps": 4,
    "episodes": 600,
    "shares": (1, 1, 2, 2, 1, 1),
    "steps": 1200,
    "batch": 64,
    "learning_rate": 3e-3,
    "ema": 0.995,
}
FEW = {"episodes": 250, "shares": SKEWED}
ONE = {"episodes": 200, "shares": (1.0, *(23 * (0.0,)))}
PEG = {"episodes": 200, "hidden": (256, 256, 256), "steps": 4000, "batch": 256}
WALL = {"episodes": 150, "hidden": (64, 64, 64), "steps": 1600, "batch": 256}
FURTHER = {
    "gusts3": Bed(**CROSSING, options=("gusts", 3.5, *LABEL)),
    "gusts12": Bed(**CROSSING, options=("gusts", 12, *LABEL)),
    "fixed": Bed(**CROSSING, options=("gusts", 7, *LABEL), base="my_policy:load_fixed"),
    "narrow": Bed(**CROSSING, options=("gusts", 7, *LABEL), base="my_policy:load_narrow"),
    "avoid": Bed("avoid", "task:avoid", (), 24, (), envs=512, base=None),
    "skewed": Bed("skewed", "task:avoid", (), 24, (), envs=512, base=None, pretrain=FEW),
    "single": Bed("single", "task:avoid", (), 24, (), envs=512, base=None, pretrain=ONE),
    "mujoco": Bed("mujoco", "mujoco:point_maze", (), 6, (), envs=256, base=None),
    "pi0": Bed("pi0", "task:visual_avoid", (), 6, (), envs=128, base=None, pretrain=PI0),
    "peg": Bed(
        "peg",
        "maniskill:ModeregLiftPeg-v1",
        ("horizon", 16, "execute", 8),
        2,
        (),
        envs=16,
        base=None,
        pretrain=PEG,
    ),
    "wall": Bed("wall", "maniskill:ModeregWall-v1", (), 3, (), envs=16, base=None, pretrain=WALL),
}


@dataclass(frozen=True)
class Budget:
    """How much of everything; what is empty is left to the defaults.

    Attributes:
        judged: episodes of every evaluation.
        env_steps: environment steps of a plain fine-tuning.
        more_steps: those of a fine-tuning from stage 1, after it.
        smoke: whether policies are hardly trained, in few environments.
        discover: further options of both methods of stage 1.
        guided: of guided discovery.
        replay: of the learners with a replay buffer.
    """

    judged: int = 1200
    env_steps: int = 400_000
    more_steps: int = 150_000
    smoke: bool = False
    discover: dict[str, Any] = field(default_factory=dict)
    guided: dict[str, Any] = field(default_factory=dict)
    replay: dict[str, Any] = field(default_factory=dict)


SMOKE = Budget(
    48,
    4000,
    4000,
    True,
    {"method__episodes": 64, "method__refinements": 1, "method__refine_episodes": 48},
    {f"method__{name}_steps": 20 for name in ("outcome", "guide", "student")},
    {"learner__prefill": 256, "learner__minibatch": 32, "learner__updates": 0.02},
)


class Session:
    """The commands for one policy and seed, and where their results lie.

    Args:
        out: folder of all runs.
        name: of the bed.
        seed: of all runs.
        budget: how much of everything.
    """

    def __init__(self, out: Path, name: str, seed: int, budget: Budget) -> None:
        bed = self.bed = (BEDS | FURTHER)[name]
        self.name, self.seed, self.budget = name, seed, budget
        self.home = (out / bed.folder).resolve()
        self.runs = self.home / f"{name}-{seed}"
        self.judged = {"final_episodes": budget.judged}
        self.task: dict[str, Any] = {"task__name": bed.task}
        self.task["task__num_envs"] = 16 if budget.smoke else bed.envs
        if bed.options:
            self.task["task__options"] = bed.options
        if bed.base is not None:
            self.task |= {
                "task__feature_keys": bed.features,
                "task__execute": TRAINED[bed.folder].execute,
                "task__offset": TRAINED[bed.folder].offset,
            }
        if bed.dims:
            self.task["task__feature_dims"] = bed.dims
        base = bed.base or self._cloned / "policy"
        self.common = self.task | {"base": base, "seed": seed}

    @property
    def _cloned(self) -> Path:
        """Folder of the base that ``modereg pretrain`` makes, one a seed."""
        return self.home / f"base-{self.seed}"

    def train(self) -> None:
        """Let the owner train the policy, once for all seeds, or clone one for this seed."""
        folder = self.bed.folder
        if self.bed.base is not None:
            train(folder, TRAINED[folder], self.home, self.budget.smoke)
        elif not (self._cloned / "summary.json").exists():
            made = self.task | self.bed.pretrain | {"out": self._cloned, "seed": self.seed}
            run("pretrain", *QUIET[:2], "--resume", **made)

    def do(self, method: str) -> None:
        """Run one method, unless its results are there."""
        out = self.runs / method
        if (out / _result(method)).exists():
            return
        out.mkdir(parents=True, exist_ok=True)
        options = self.common | {"out": out}
        tuned = {"env_steps": self.budget.env_steps, "eval_every": 1000} | self.judged
        if method == "base":
            run("evaluate", cwd=self.home, **options, episodes=self.budget.judged)
        elif method == "inspect":
            run("inspect", "--log.no-progress", cwd=self.home, **options)
        elif method == "best_of":
            best_of(self.runs / "stage1", out, self.home, self.budget.judged)
        elif method in ("stage1", "residual"):
            more = self.judged | self.budget.discover | self.budget.guided
            flags = [*QUIET, "--resume"]
            flags += ["--method.residual", "0.5"] if method == "residual" else []
            run("discover", *flags, cwd=self.home, **options, **more)
        elif method == "cluster":
            more = self.judged | self.budget.discover
            self._cluster(options | more)
        elif method == "plain":
            basis = {"noise__basis": "response"}
            run("finetune", *QUIET, "--resume", cwd=self.home, **options, **tuned, **basis)
        elif method == "plain_sac":
            options |= self.budget.replay
            run("finetune sac", *QUIET, "--resume", cwd=self.home, **options, **tuned)
        else:
            start = self.runs / "stage1"
            spent = read_json(start / "summary.json")["env_steps"]
            tuned |= {"start": start, "env_steps": spent + self.budget.more_steps}
            flags = [*QUIET, "--resume", "--accept-uncommanded"]
            learner = f"finetune {FROM_STAGE1[method]}"
            run(learner, *flags, cwd=self.home, **options, **tuned, **self.budget.replay)

    def _cluster(self, options: dict[str, Any]) -> None:
        """Imitate the noises of clusters, with as many episodes as stage 1 had."""
        same = {"method__episodes": 2048, "method__refine_episodes": 256} | options
        run("discover cluster", *QUIET, "--resume", cwd=self.home, **same)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the table, as far as there are results."""
        return [row for method in METHODS if (row := self._row(method)) is not None]

    def _row(self, method: str) -> dict[str, Any] | None:
        folder = self.runs / method
        path = folder / _result(method)
        if method == "inspect" or not path.exists():
            return None
        summary = read_json(path)
        figures = summary["sampled"]
        earlier = [self.runs / "stage1"] if method in (*FROM_STAGE1, "best_of") else []
        row = {
            "task": self.name,
            "method": method,
            "seed": self.seed,
            "episodes": figures["episodes"],
            "success": round(figures["success"], 4),
            "success_error": round(figures["success_error"], 4),
            "return": round(figures["mean_return"], 4),
            "entropy": round(figures["entropy"], 4),
            "modes": self.bed.modes,
            "present": figures["present_modes"],
            "commandable": figures["commandable_modes"],
            "env_steps": summary.get("env_steps", 0),
            "cpu_seconds": round(sum(map(cpu_seconds, [*earlier, folder])), 1),
        }
        mean = summary.get("deterministic", {})
        if mean:
            names = {"success": "success", "present": "present_modes"}
            names["commandable"] = "commandable_modes"
            row |= {f"mean_{key}": mean[name] for key, name in names.items()}
        if "verdict" in summary:
            codes = summary["verdict"]["codes"]
            row["hits"] = round(sum(code["hits"] for code in codes) / len(codes), 4)
            row["verdict"] = summary["verdict"]["text"]
        return row | (self._predicted() if method in ("base", "stage1") else {})

    def _predicted(self) -> dict[str, Any]:
        """Return what ``inspect`` says, as far as it was asked."""
        path = self.runs / "inspect" / _result("inspect")
        if not path.exists():
            return {}
        found = read_json(path)
        codes = found["reach"]["codes"] if found["reach"] else [{"reach": 1.0}]
        reach = [code["reach"] for code in codes]
        return {
            "predicted_reach": round(sum(reach) / len(reach), 4),
            "predicted_commandable": sum(value >= NEARLY for value in reach),
            "predicted_codes": len(reach) if found["reach"] else 1,
            "advice": found["advice"],
        }


def _result(method: str) -> str:
    """Return the file that a method writes at its end."""
    if method == "inspect":
        return "inspection.json"
    return "evaluation.json" if method in EVALUATED else "summary.json"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    names = ("task", "method", "seed", "success", "return", "entropy", "present", "commandable")
    lines = [
        f"| {' | '.join(names)} | of | by the mean noise | hits | predicted reach | env steps "
        "| CPU seconds |",
        "|" + "---|" * (len(names) + 6),
    ]
    for row in rows:
        cells = [
            f"{row[name]:.3f}" if isinstance(row[name], float) else row[name] for name in names
        ]
        cells[3] = f"{row['success']:.3f} +- {row['success_error']:.3f}"
        mean = ""
        if "mean_success" in row:
            mean = f"{row['mean_success']:.3f}, {row['mean_commandable']} commandable"
        told = ["", ""]
        if "hits" in row:
            told[0] = f"{row['hits']:.2f}"
        if "predicted_reach" in row:
            counts = f"{row['predicted_commandable']} of {row['predicted_codes']}"
            told[1] = f"{row['predicted_reach']:.2f} ({counts})"
        cells += [row["modes"], mean, *told, f"{row['env_steps']:,}", f"{row['cpu_seconds']:.0f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def save(path: Path | None, rows: list[dict[str, Any]]) -> None:
    """Write the rows and the table."""
    if path is None or not rows:
        return
    write_json(path, {"rows": rows})
    verdicts = [
        f"- {row['task']}, {row['method']}, seed {row['seed']}: "
        + row["verdict"].replace("\n", " ")
        for row in rows
        if row["method"] in ("stage1", "residual") and "verdict" in row
    ]
    page = ["# Policies that others trained", "", f"    python {' '.join(sys.argv)}", ""]
    page += [table(rows), "", "Verdicts of stage 1:", "", *verdicts, ""]
    path.with_suffix(".md").write_text("\n".join(page))


def main() -> None:
    """Run everything that is not there yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(BEDS), choices=list(BEDS | FURTHER))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument(
        "--smoke", action="store_true", help="a tiny budget, one seed, some methods"
    )
    args = parser.parse_args()
    out = args.out or Path("runs") / ("foreign_smoke" if args.smoke else "foreign_policies")
    budget = SMOKE if args.smoke else Budget()
    tasks, seeds = (args.tasks[:1], args.seeds[:1]) if args.smoke else (args.tasks, args.seeds)
    sessions = [Session(out, task, seed, budget) for task in tasks for seed in seeds]
    for session in sessions:
        session.train()
        for method in SMOKED if args.smoke else args.methods:
            session.do(method)
            save(args.json, [row for each in sessions for row in each.rows()])
    print(table([row for each in sessions for row in each.rows()]))


if __name__ == "__main__":
    main()
