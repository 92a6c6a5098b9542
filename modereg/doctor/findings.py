"""What a check of this machine found."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "table"]

MARKS = {"ok": "ok", "absent": "-", "wrong": "!!"}


@dataclass(frozen=True)
class Finding:
    """One line of ``modereg doctor``.

    Attributes:
        name: what was looked at.
        status: ``ok``; ``absent``, which is no fault; or ``wrong``.
        found: what there is, or what is missing.
        command: the one command that mends it, or None where a command cannot.
        advice: what to do where no command mends it.
        required: whether nothing works until it is mended.
    """

    name: str
    status: Literal["ok", "absent", "wrong"]
    found: str
    command: tuple[str, ...] | None = None
    advice: str | None = None
    required: bool = False

    @property
    def mend(self) -> str | None:
        """What mends it, as one would type it."""
        return self.advice if self.command is None else shlex.join(self.command)

    @property
    def fatal(self) -> bool:
        """Whether something required is wrong."""
        return self.required and self.status == "wrong"


def table(findings: Sequence[Finding]) -> str:
    """Lay findings out, one a line, each that is not well with what mends it below."""
    width = max(len(finding.name) for finding in findings) if findings else 0
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.status]:>2}  {finding.name:<{width}}  {finding.found}")
        if finding.status != "ok" and finding.mend is not None:
            lines.append(f"    {'':<{width}}  -> {finding.mend}")
    return "\n".join(lines)
