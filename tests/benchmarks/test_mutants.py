"""The list of mutants that no test can tell from the original speaks of lines that still exist."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Any

import pytest

from modereg import functional

REASONS = Path(__file__).parents[1] / "functional/equivalent_mutants.toml"
ENTRIES = tomllib.loads(REASONS.read_text())["equivalent"]


def source(function: str) -> list[str]:
    """Return the lines of a function, named as module.function or module.class.method."""
    module, *names = function.split(".")
    text = Path(functional.__file__).with_name(f"{module}.py").read_text()
    node: Any = ast.parse(text)
    for name in names:
        node = next(child for child in node.body if getattr(child, "name", None) == name)
    return [line.strip() for line in text.splitlines()[node.lineno - 1 : node.end_lineno]]


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["function"] for entry in ENTRIES])
def test_the_line_is_there_once_and_each_mutant_changes_it(entry: dict[str, Any]) -> None:
    assert source(entry["function"]).count(entry["line"]) == 1, "remove the entry, or correct it"
    assert entry["line"] not in entry["becomes"]
    assert entry["reason"].strip()
