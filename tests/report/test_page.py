from __future__ import annotations

import base64
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from torch import nn

from modereg import metrics
from modereg.errors import CheckpointError, ConfigurationError
from modereg.policies import as_generative_policy
from modereg.recipes.config.text import read_config
from modereg.recipes.setup import Setup
from modereg.report import ReportEntry, write_report
from modereg.report.folders import command
from modereg.report.numbers import percent
from modereg.report.page import _environment, _items, _marked
from modereg.report.results import Group, Row, Table, results, summary

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects tags, images and text, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.words, self._open = "", list[str]()
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        assert not {name for name, _ in attrs} & {"onclick", "onload", "href"}

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data.replace("\n", " ")


@pytest.fixture(scope="module")
def written(
    avoid: Setup, entries: list[ReportEntry], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_report(
        tmp_path_factory.mktemp("report"),
        avoid,
        entries,
        title="Avoid <script>alert(1)</script>",
        commands=["modereg demo --out 'runs & more'"],
        notes=["Codes alone do <em>as well</em> here."],
        episodes=24,
    )


def test_the_page_is_whole_and_self_contained(written: Path) -> None:
    text = written.read_text()
    page = Page(text)
    assert not {"script", "link", "iframe", "a"} & set(page.tags)
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert page.tags.count("h1") == 1
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_pictures_are_on_the_page_and_beside_it(written: Path) -> None:
    names = ["trajectories", "trajectories_by_code", "shares", "codes", "curves"]
    names += ["codes_and_modes", "bound"]
    page = Page(written.read_text())
    assert all(len(image["alt"] or "") > 20 for image in page.images)
    thumbs = [image for image in page.images if image.get("class") == "thumb"]
    assert page.images[: len(thumbs)] == thumbs
    assert len(thumbs) == 3
    assert len(page.images) == 3 + len(names)
    for name, image in zip(names, page.images[3:], strict=True):
        head, _, body = (image["src"] or "").partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(body) == (written.parent / f"{name}.png").read_bytes()


def test_text_is_escaped(written: Path) -> None:
    text = written.read_text()
    page = Page(text)
    assert "Avoid <script>alert(1)</script>" in page.words
    assert "Codes alone do <em>as well</em> here." in page.words
    assert "modereg demo --out 'runs & more'" in page.words
    assert "Base & <all>" in page.words
    assert "out: <run>" in page.words
    assert "Base & <all>" not in text


def test_success_never_stands_alone(written: Path, entries: list[ReportEntry]) -> None:
    words = Page(written.read_text()).words
    for entry in entries:
        figures = entry.sampled
        assert f"{figures['success']:.3f} ± {figures['success_error']:.3f}" in words
        assert f"{percent(figures['success'])} success with " in words
        assert f"with {figures['present_modes']} of 24 modes present" in words
    for name in ("entropy", "present", "commandable", "mean noise", "env steps"):
        assert name in words


def test_several_seeds_are_summed_up(avoid: Setup, entries: list[ReportEntry]) -> None:
    """From the lowest to the highest, with the modes beside the success."""
    runs = [
        replace(
            entries[1],
            name=f"s{seed}",
            group="mine",
            metrics={"sampled": {**entries[1].sampled, "success": rate, "present_modes": modes}},
        )
        for seed, (rate, modes) in enumerate([(0.92, 24), (0.9, 20), (0.95, 22)])
    ]
    text = summary(avoid.task, [entries[0], *runs])
    assert (
        "90\u2009% to 95\u2009% success with 20 to 24 of 24 modes present (mine, 3 seeds)." in text
    )


def test_the_runs_commands_stand_beside_that_of_the_whole(
    written: Path, entries: list[ReportEntry]
) -> None:
    words = Page(written.read_text()).words
    for entry in entries[1:]:
        assert command(read_config(entry.run_folder or Path())) in words
    assert "OMP_NUM_THREADS=1" in words


def test_definitions_are_those_of_the_metrics() -> None:
    items = _items(metrics.__doc__ or "")
    page = Page("".join(f"<p>{_marked(item)}</p>" for item in items))
    assert page.tags.count("p") == 5
    assert "A mode is present if it has at least 1 % of the successful episodes." in page.words
    assert ">=" in page.words
    assert "*" not in page.words
    assert _marked("*<b>* ``x < y`` +- 1") == "*&lt;b&gt;* <code>x &lt; y</code> ± 1"


def test_a_table_scrolls_in_its_own_box() -> None:
    """A heading spans its columns, and everything is escaped."""
    row = Row("<n>", "#ff0000", [["1", "2"]])
    template = _environment().get_template("parts.html").module
    text = str(template.table(Table("name", [Group("a & b", ["x", "y"])], [row])))  # type: ignore[attr-defined]
    assert text.strip().startswith('<div class="box"')
    page = Page(text)
    assert page.words.replace(" ", "") == "a&bnamexy<n>12"
    assert 'colspan="2"' in text


def test_what_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="title"):
        _environment().get_template("page.html").render()


def test_without_a_label(pendulum: Setup, unlabelled: list[ReportEntry], tmp_path: Path) -> None:
    written = write_report(tmp_path, pendulum, unlabelled, title="Pendulum", episodes=6)
    page = Page(written.read_text())
    assert {path.name for path in tmp_path.iterdir()} == {
        "index.html",
        "trajectories.png",
        "codes.png",
        "curves.png",
        "bound.png",
    }
    for name in ("effective codes", "return a code", "share a code"):
        assert name in page.words
    assert "commandable modes" not in page.words.split("What the figures mean")[0]
    assert len(page.images) == 3 + 4


def test_a_base_alone_and_no_rows(avoid: Setup, entries: list[ReportEntry], tmp_path: Path) -> None:
    page = write_report(tmp_path, avoid, entries[:1], title="Base", episodes=8)
    assert "Nothing was fine-tuned yet." in Page(page.read_text()).words
    assert not (tmp_path / "curves.png").exists()


def test_an_adapter_of_another_base_is_refused(
    avoid: Setup, entries: list[ReportEntry], tmp_path: Path
) -> None:
    other = as_generative_policy(
        lambda noise, observation: noise,
        in_keys=["observation"],
        noise_shape=(8, 2),
        chunk_shape=(8, 2),
        module=nn.Linear(2, 2),
    )
    setup = replace(avoid, base=other, fingerprint=other.fingerprint())
    with pytest.raises(CheckpointError, match="steers the base policy"):
        write_report(tmp_path, setup, entries, title="Avoid", episodes=8)


def test_an_adapter_of_another_layout_is_refused(
    avoid: Setup, entries: list[ReportEntry], tmp_path: Path
) -> None:
    """Rather than to show it where it was not trained."""
    task = avoid.task.with_layout(execute=4)
    setup = replace(avoid, task=task, layout=task.layout.for_policy(avoid.base))
    with pytest.raises(ConfigurationError, match="another layout .*: execute 8 and 4"):
        write_report(tmp_path, setup, entries[1:], title="Avoid", episodes=8)


def test_it_is_quick(avoid: Setup, entries: list[ReportEntry], tmp_path: Path) -> None:
    started = time.process_time()
    write_report(tmp_path, avoid, entries, title="Avoid")
    assert time.process_time() - started < 12


def test_a_single_code_has_no_nmi(avoid: Setup, entries: list[ReportEntry]) -> None:
    colors = dict.fromkeys(("base", "discover"), "#000000")
    table = results(avoid.task, entries[:2], colors)
    column = list(table.groups[0].names).index("NMI")
    base, run = (row.cells[0][column] for row in table.rows)
    assert base == "–"
    assert run == f"{entries[1].sampled['code_mode_nmi']:.2f}"
