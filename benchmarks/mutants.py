"""Mutants of the equations, and which of them the tests of the equations do not notice.

    python benchmarks/mutants.py --json benchmarks/results/mutants.json
    python benchmarks/mutants.py --smoke

mutmut changes one thing at a time in ``modereg/functional`` (a sign, a number, an argument, an
operator), and ``tests/functional`` runs on each such mutant at the examples of Hypothesis's profile
"quick", without shrinking failures. It does so in a copy, ``runs/mutants``; to look at one there:
``cd runs/mutants && mutmut show NAME``. mutmut leaves decorated functions out, so the copy is
without the decorators that change no value (caches, marks for the compiler and for autograd).

Rows: module, mutants, killed, timeouts (tests that did not end within two minutes or more),
equivalent (survivors of which ``tests/functional/equivalent_mutants.toml`` says why no test can
tell them), unexplained (other survivors), score (percent of all mutants killed, equivalent ones
counted as survivors). The page has every survivor below the table, and its reason.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from support.results import write_results

ROOT = Path(__file__).parent.parent
REASONS = Path("tests/functional/equivalent_mutants.toml")
DECORATORS = re.compile(r"^ *@(functools\.\w+|once_differentiable|torch\.compiler\.\w+)\n", re.M)
NAME = re.compile(r"modereg\.functional\.(?P<module>\w+)\.x(_|ǁ)(?P<function>\w+?)__mutmut_\d+")


class Mutant(NamedTuple):
    """One survivor: where it is, its changed lines, and why it is equivalent, if it is known to."""

    function: str
    before: str
    after: str
    reason: str | None


def prepare(work: Path, module: str) -> None:
    """Copy what mutmut needs to a fresh folder, and name the module ("*": all) that it mutates."""
    shutil.rmtree(work, ignore_errors=True)
    for folder in ("modereg", "tests"):
        shutil.copytree(ROOT / folder, work / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (work / "modereg/functional").glob("*.py"):
        file.write_text(DECORATORS.sub("", file.read_text()))
    settings = (ROOT / "pyproject.toml").read_text()
    settings = settings.replace('"modereg/functional/*.py"', f'"modereg/functional/{module}.py"')
    if module != "*":
        settings = settings.replace('"tests/functional"', f'"tests/functional/test_{module}.py"')
    (work / "pyproject.toml").write_text(settings)


def mutmut(work: Path, *arguments: str) -> str:
    """Call mutmut in the folder; return what it prints."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(
        command, cwd=work, env=os.environ | threads, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"mutmut {' '.join(arguments)} failed in {work}:\n{done.stdout[-4000:]}")
    return done.stdout


def statuses(work: Path, function: str) -> dict[str, str]:
    """Return what became of each mutant of the functions whose names fit."""
    lines = mutmut(work, "results", "--all", "true").splitlines()
    pairs = [line.strip().split(": ") for line in lines if ": " in line]
    return {name: status for name, status in pairs if re.search(function, name)}


def survivor(work: Path, name: str, reasons: list[dict[str, Any]]) -> Mutant:
    """Read the changed lines of a mutant, and find them among those with a reason."""
    lines = mutmut(work, "show", name).splitlines()
    before, after = (
        "\n".join(line[1:].strip() for line in lines if re.match(rf"\{sign}(?!\{sign}{{2}})", line))
        for sign in "-+"
    )
    function = qualified_name(name)
    for known in reasons:
        if (known["function"], known["line"]) == (function, before) and after in known["becomes"]:
            return Mutant(function, before, after, known["reason"])
    return Mutant(function, before, after, None)


def qualified_name(mutant: str) -> str:
    """Return module.function, or module.class.method, of a mutant's name."""
    found = NAME.fullmatch(mutant)
    if found is None:
        raise SystemExit(f"expected a mutant of modereg.functional, got {mutant!r}")
    return f"{found['module']}.{found['function'].replace('ǁ', '.')}"


def table(found: dict[str, str], survivors: dict[str, Mutant]) -> list[dict[str, Any]]:
    """Return one row a module and one of all."""
    rows = []
    for module in (*sorted({qualified_name(name).split(".")[0] for name in found}), "all"):
        names = [name for name in found if module in ("all", name.split(".")[2])]
        counts = Counter(found[name] for name in names)
        explained = [survivors[name].reason is not None for name in names if name in survivors]
        row = {"module": module, "mutants": len(names), "killed": counts["killed"]}
        row |= {"timeouts": counts["timeout"], "equivalent": sum(explained)}
        row |= {"unexplained": len(explained) - sum(explained)}
        rows.append(row | {"score": 100 * (counts["killed"] + counts["timeout"]) / len(names)})
    return rows


def page_of(survivors: list[Mutant]) -> str:
    """Return the survivors with their reasons as a section."""
    lines = ["", "## Survivors", ""]
    for mutant in sorted(survivors, key=lambda mutant: mutant[:3]):
        lines += [f"`{mutant.function}`: {mutant.reason or '**not explained**'}", "", "```diff"]
        lines += [f"-{line}" for line in mutant.before.split("\n")]
        lines += [f"+{line}" for line in mutant.after.split("\n")] + ["```", ""]
    return "\n".join(lines if survivors else [*lines, "None.", ""])


def main() -> None:
    """Run the mutants, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write one object with rows here, a page beside")
    parser.add_argument("--smoke", action="store_true", help="three mutants, to see that it runs")
    parser.add_argument("--module", default="*", help="of modereg.functional; * is all")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--report", action="store_true", help="of the last run, without another")
    options = parser.parse_args()
    module, function = ("control", "x_shaping") if options.smoke else (options.module, "")
    work = ROOT / "runs" / ("mutants-smoke" if options.smoke else "mutants")
    if not options.report:
        prepare(work, module)
        only = [f"modereg.functional.{module}.{function}*"] * options.smoke
        mutmut(work, "run", "--max-children", str(options.jobs), *only)
    found = statuses(work, function)
    reasons = tomllib.loads((ROOT / REASONS).read_text())["equivalent"]
    left = [name for name, status in found.items() if status not in ("killed", "timeout")]
    survivors = {name: survivor(work, name, reasons) for name in left}
    rows = table(found, survivors)
    print(*rows, page_of(list(survivors.values())), sep="\n")
    if options.json is not None:
        write_results(options.json, "Mutants of the equations", {"rows": rows})
        with options.json.with_suffix(".md").open("a") as page:
            page.write(page_of(list(survivors.values())))


if __name__ == "__main__":
    main()
