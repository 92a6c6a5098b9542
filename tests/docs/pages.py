"""The pages of the documentation, and how a test runs the code of one, wherever the test lies."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import modereg
from modereg import discover_modes
from modereg.discovery import GuidedDiscovery

DOCS = Path(__file__).parents[2] / "docs"
CHECKOUT = Path(os.environ.get("MODEREG_CHECKOUT", DOCS.parent))
PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text()
    for path in sorted(DOCS.rglob("*.md"))
    if path.relative_to(DOCS).parts[0] not in ("_build", "_generated")
}
FEWER_STEPS = {"outcome_steps": 150, "guide_steps": 150, "student_steps": 300}
FEWER_ROUNDS = 3


def blocks(page: str, language: str = "python") -> list[str]:
    """Return the code on a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def run_page(
    page: str,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    smaller: Mapping[str, str] | None = None,
    **names: Any,
) -> dict[str, Any]:
    """Run a page's Python one block after the other, as one module, in a folder of its own.

    Args:
        page: its path below docs/.
        monkeypatch: puts back what is lowered: the default budgets of discovery.
        folder: working directory.
        smaller: budgets that the page writes out, and those that take their place; nothing else of
            the code is changed.
        names: what the page takes for granted.

    Returns:
        The names of the module at its end.
    """
    code = blocks(page)
    for large, small in (smaller or {}).items():
        assert any(large in block for block in code), large
        code = [block.replace(large, small) for block in code]
    monkeypatch.chdir(folder)
    monkeypatch.setitem(discover_modes.__kwdefaults__, "refinements", FEWER_ROUNDS)
    for budget, steps in FEWER_STEPS.items():
        monkeypatch.setitem(GuidedDiscovery.__init__.__kwdefaults__, budget, steps)
    monkeypatch.setitem(modereg.ClusterModeDiscoverer.__init__.__kwdefaults__, "steps", 200)
    module = ModuleType("my_" + Path(page).stem)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    vars(module).update(names)
    for block in code:
        exec(compile(block, page, "exec"), vars(module))
    return vars(module)
