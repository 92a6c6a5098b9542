"""What a run returns: its summary, a dictionary that a notebook shows as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["Summary"]


class Summary(dict[str, Any]):
    """The summary of a finished run, as ``summary.json`` holds it.

    A notebook shows the main figures, sampled and deterministic, and a link to the run's page.
    """

    def __init__(self, values: Mapping[str, Any], folder: Path) -> None:
        super().__init__(values)
        self.folder = Path(folder)

    def _repr_html_(self) -> str:
        ways = [name for name in ("sampled", "deterministic") if name in self]
        body = "".join(_row(name, [self[way] for way in ways], show) for name, show in ROWS.items())
        head = "".join(f"<th>{way}</th>" for way in ["", *ways])
        table = (
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if ways else ""
        )
        return f"<div><p>{escape(self._sentence())}</p>{table}<p>{self._page()}</p></div>"

    def _sentence(self) -> str:
        names = ("method", "env_steps", "loss", "demonstrations", "policy")
        parts = [f"{name.replace('_', ' ')} {self[name]}" for name in names if name in self]
        return f"{self.folder}: {', '.join(parts)}"

    def _page(self) -> str:
        page = self.folder / "index.html"
        if not page.exists():
            return f"<code>modereg report {escape(str(self.folder))}</code> draws its page."
        return f'<a href="{escape(page.as_posix())}" target="_blank">The page of the run</a>'


def _share(figures: Mapping[str, Any], name: str) -> str:
    error = figures.get(f"{name}_error")
    return f"{figures[name]:.3f}" + ("" if error is None else f" &plusmn; {error:.3f}")


def _count(figures: Mapping[str, Any], name: str) -> str:
    return f"{figures[name]:g}"


ROWS: dict[str, Callable[[Mapping[str, Any], str], str]] = {
    "success": _share,
    "mean_return": _share,
    "entropy": _share,
    "present_modes": _count,
    "commandable_modes": _count,
    "effective_codes": _share,
    "bound_share": _share,
    "episodes": _count,
}
"""The figures that are shown, and how."""


def _row(name: str, columns: list[Mapping[str, Any]], show: Callable[..., str]) -> str:
    """Return a line of the table, nothing where no column has the figure."""
    if all(figures.get(name) is None for figures in columns):
        return ""
    cells = [show(figures, name) if figures.get(name) is not None else "" for figures in columns]
    label = name.replace("_", " ")
    return f"<tr><th>{label}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
