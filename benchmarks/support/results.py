"""How results are kept: a JSON object, and a page with the command and its table beside it."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

__all__ = ["write_results"]


def write_results(path: Path | None, title: str, result: dict[str, Any]) -> None:
    """Write ``path`` and, with the suffix ``.md``, the same as a table; nothing without a path.

    Args:
        path: of the JSON file.
        title: of the page.
        result: one object, with a table under ``rows``.
    """
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    path.with_suffix(".md").write_text(_page(title, result))


def _page(title: str, result: dict[str, Any]) -> str:
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    lines = [
        f"# {title}",
        "",
        f"    python {' '.join(sys.argv)}",
        "",
        f"{versions}, one thread.",
        "",
    ]
    figures = {name: value for name, value in result.items() if name != "rows"}
    lines += [f"- {name}: {value}" for name, value in figures.items()] + [""] * bool(figures)
    names = list(dict.fromkeys(name for row in result["rows"] for name in row))
    lines += [_line(names), _line(["---"] * len(names))]
    lines += [_line([_cell(row.get(name)) for name in names]) for row in result["rows"]]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
