"""``modereg doctor``: examine, print, and mend after asking."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict

from modereg.doctor.checks import Finding, examine
from modereg.recipes.config import DoctorConfig

__all__ = ["doctor", "table"]

MARKS = {"ok": "ok", "absent": "-", "wrong": "!!"}

STDERR = 2
"""File descriptor of the process's own stderr."""


def doctor(
    config: DoctorConfig,
    *,
    checks: Callable[[], list[Finding]] = examine,
    ask: Callable[[str], str] = input,
) -> int:
    """Print what was found and mend it if asked.

    Args:
        config: see :class:`~modereg.recipes.config.DoctorConfig`.
        checks: returns the findings; called again after mending.
        ask: poses a question and returns the answer.

    Returns:
        The exit status: 1 if something required is wrong, also after mending.
    """
    findings = checks()
    if not config.json:
        print(table(findings))
    if config.fix and _mend(findings, config.yes, ask):
        findings = checks()
        if not config.json:
            print(f"\nafterwards:\n{table(findings)}")
    if config.json:
        shown = [asdict(finding) | {"mend": finding.mend} for finding in findings]
        print(json.dumps(shown, indent=2))
    return int(any(finding.fatal for finding in findings))


def table(findings: Sequence[Finding]) -> str:
    """Lay findings out, one a line, each that is not well with what mends it below."""
    width = max(len(finding.name) for finding in findings) if findings else 0
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.status]:>2}  {finding.name:<{width}}  {finding.found}")
        if finding.status != "ok" and finding.mend is not None:
            lines.append(f"    {'':<{width}}  -> {finding.mend}")
    return "\n".join(lines)


def _mend(findings: Sequence[Finding], yes: bool, ask: Callable[[str], str]) -> bool:
    """Run what mends each finding; without questions faults only. Return whether any ran."""
    ran = False
    for finding in findings:
        if finding.status == "ok" or finding.command is None:
            continue
        if finding.status == "wrong" if yes else _agrees(finding, ask):
            ran = True
            _run(finding)
    return ran


def _agrees(finding: Finding, ask: Callable[[str], str]) -> bool:
    try:
        answer = ask(f"\n{finding.name}: {finding.found}\nrun `{finding.mend}`? [y/N] ")
    except EOFError:
        print("\nnobody answers; --yes mends faults without asking", file=sys.stderr)
        return False
    return answer.strip().lower() in ("y", "yes")


def _run(finding: Finding) -> None:
    """Run what mends a finding; its output goes to stderr, beside no JSON."""
    done = subprocess.run(finding.command or (), stdout=STDERR)
    if done.returncode:
        print(f"`{finding.mend}` failed with exit status {done.returncode}", file=sys.stderr)
