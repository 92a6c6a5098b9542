from __future__ import annotations

import json
import pickle
from html.parser import HTMLParser
from pathlib import Path

from modereg.recipes.summaries import Summary

FIGURES = {"success": 0.875, "success_error": 0.01, "entropy": 0.5, "present_modes": 3}


class Cells(HTMLParser):
    """Collects the text of a table's cells, and the links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.cells.append("")


def test_a_notebook_shows_figures_and_the_page(tmp_path: Path) -> None:
    later = FIGURES | {"present_modes": None, "table": [[1] * 9]}
    summary = Summary(
        {"method": "finetune", "env_steps": 7, "sampled": FIGURES, "deterministic": later}, tmp_path
    )
    text = summary._repr_html_()
    assert f"modereg report {tmp_path}" in text
    assert f"{tmp_path}: method finetune, env steps 7" in text
    cells = Cells(text).cells
    assert cells[:6] == [
        "",
        "sampled",
        "deterministic",
        "success",
        "0.875 ± 0.010",
        "0.875 ± 0.010",
    ]
    assert cells[6:12] == ["entropy", "0.500", "0.500", "present modes", "3", ""]
    (tmp_path / "index.html").write_text("")
    assert Cells(summary._repr_html_()).links == [f"{tmp_path}/index.html"]


def test_names_are_escaped_and_a_clone_has_no_table(tmp_path: Path) -> None:
    text = Summary({"policy": "<b>", "loss": 0.5}, tmp_path)._repr_html_()
    assert "loss 0.5, policy &lt;b&gt;" in text
    assert "<table" not in text


def test_it_is_the_dictionary_that_it_holds(tmp_path: Path) -> None:
    summary = Summary({"a": 1}, tmp_path)
    assert summary == {"a": 1}
    assert json.loads(json.dumps(summary)) == {"a": 1}
    again = pickle.loads(pickle.dumps(summary))
    assert (again, again.folder) == (summary, tmp_path)
