"""The page in a real browser. Skipped only where no chromium is on the PATH; CI installs one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modereg.recipes.setup import Setup
from modereg.report import ReportEntry, write_report
from tests.report.browser import Browser, find_browser, open_browser

pytestmark = pytest.mark.skipif(
    find_browser() is None,
    reason="no chromium on the PATH; install one (on Debian: apt install chromium)",
)
WIDE, NARROW, PAPER = 1280, 400, 718
HIDDEN = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
OUTSIDE = """
[...document.querySelectorAll("main *")].filter(e => !e.closest(".box, .view, .reel, pre")
    && e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5
).map(e => e.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(
    avoid: Setup,
    pendulum: Setup,
    entries: list[ReportEntry],
    unlabelled: list[ReportEntry],
    pictured: Setup,
    filmed: list[ReportEntry],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Return a page with a label, one without, one with films, and one of several seeds.

    The longest words are longer than a phone.
    """
    folder, command = tmp_path_factory.mktemp("pages"), f"modereg finetune --out {'long_' * 30}"
    names = ("s0", "s1", "s2", "s3")
    seeds = [replace(entries[2], name=name, label=name, group="mine") for name in names]
    options = {"commands": [command], "notes": [f"See {'word' * 30}."], "episodes": 12}
    return {
        "avoid": write_report(folder / "a", avoid, entries, title="Avoid " + "o" * 60, **options),
        "pendulum": write_report(folder / "p", pendulum, unlabelled, title="Pendulum", **options),
        "films": write_report(folder / "f", pictured, filmed, title="Films", **options),
        "seeds": write_report(folder / "s", avoid, seeds, title="Seeds", **options),
    }


@pytest.mark.parametrize("name", ["avoid", "pendulum", "films", "seeds"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_nothing_is_wider_than_the_window(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.show(pages[name], width)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate(HIDDEN) == 0
    assert browser.evaluate(OUTSIDE) == []


def test_an_overflow_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "wide.html"
    page.write_text('<main><p style="width:500px">wide</p></main><script>fail()</script>')
    browser.complaints.clear()
    browser.show(page, NARROW)
    assert browser.evaluate(HIDDEN) > 90
    assert len(browser.evaluate(OUTSIDE)) == 1
    assert len(browser.complaints) == 1
    browser.complaints.clear()


def test_every_picture_is_drawn_and_nothing_complains(
    browser: Browser, pages: dict[str, Path]
) -> None:
    for page in pages.values():
        browser.show(page, WIDE)
        drawn = browser.evaluate(
            "[...document.images].map(i => i.complete && i.naturalWidth && i.width)"
        )
        assert len(drawn) >= 4
        assert min(drawn) > 60
        figures = browser.evaluate(
            "[...document.querySelectorAll('.view:not(.card *) img')].length"
        )
        assert figures >= 4
        assert browser.evaluate("[...document.images].every(i => i.alt.length > 20)")
    assert browser.complaints == []


HINTS = """
[...document.querySelectorAll(".box, .view, .reel")].map(e => {
    const place = e.closest("figure:not(.film)") || document;
    const before = [...place.querySelectorAll(".swipe")].filter(
        hint => hint.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING);
    const hint = before.at(-1);
    const since = hint && [...document.querySelectorAll("h2, .box")].filter(h =>
        (hint.compareDocumentPosition(h) & Node.DOCUMENT_POSITION_FOLLOWING)
        && (h.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING));
    const shown = Boolean(hint) && since.length === 0 && hint.offsetHeight > 0;
    return [e.className, e.scrollWidth > e.clientWidth + 1, shown];
})
"""
"""Of what can scroll: its class, whether it does, and whether a hint stands before it."""


@pytest.mark.parametrize("name", ["avoid", "pendulum", "films", "seeds"])
def test_what_is_cut_off_says_so(browser: Browser, pages: dict[str, Path], name: str) -> None:
    """Wide pictures and tables scroll within their box on a phone, under a visible hint."""
    browser.show(pages[name], NARROW)
    found = browser.evaluate(HINTS)
    assert sum(scrolls for _, scrolls, _ in found) >= 3
    assert [each for each in found if each[1] != each[2]] == []
    widths = browser.evaluate("[...document.querySelectorAll('.view img')].map(i => i.width)")
    assert min(widths) >= 100
    browser.show(pages[name], WIDE)
    assert not any(scrolls or hint for _, scrolls, hint in browser.evaluate(HINTS))


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_light_and_dark(browser: Browser, pages: dict[str, Path], width: int) -> None:
    """Neither is blank, and in the dark no picture is a white sheet."""
    bright = {}
    for scheme in ("light", "dark"):
        browser.show(pages["avoid"], width, scheme=scheme)
        shot = browser.screenshot()
        assert shot.shape[0] > 2000
        assert len(np.unique((255 * shot).astype(int) @ [1, 256, 256**2])) > 200
        bright[scheme] = (shot[..., 1] > 0.8).mean()
        ink = browser.evaluate("getComputedStyle(document.body).color")
        assert ink == {"light": "rgb(31, 35, 40)", "dark": "rgb(230, 232, 235)"}[scheme]
    assert bright["light"] > 0.8
    assert bright["dark"] < 0.1


def test_print(browser: Browser, pages: dict[str, Path]) -> None:
    """A reader of the dark prints on white; on A4 within its margins nothing is cut off."""
    browser.show(pages["avoid"], PAPER, scheme="dark", media="print")
    assert browser.evaluate(HIDDEN) == 0
    boxes = "[...document.querySelectorAll('.box, .view, pre')]"
    assert not browser.evaluate(f"{boxes}.some(e => e.scrollWidth > e.clientWidth)")
    assert (browser.screenshot()[..., 1] > 0.8).mean() > 0.8
    assert browser.pdf().startswith(b"%PDF-")


def test_who_prefers_less_motion_sees_strips_alone(
    browser: Browser, pages: dict[str, Path]
) -> None:
    seen = "[...document.querySelectorAll('%s')].map(i => i.offsetWidth)"
    for motion, media, moving in [
        ("no-preference", "", True),
        ("reduce", "", False),
        ("no-preference", "print", False),
    ]:
        browser.show(pages["films"], WIDE, motion=motion, media=media)
        strips = browser.evaluate(seen % ".strip")
        assert len(strips) >= 6
        assert min(strips) > 400
        assert not browser.evaluate(
            "[...document.querySelectorAll('.reel')].some(e => e.scrollWidth > e.clientWidth)"
        )
        assert all(width > 0 for width in browser.evaluate(seen % ".motion")) is moving


def test_squares_and_figures_of_a_card_stand_within_it(
    browser: Browser, pages: dict[str, Path]
) -> None:
    cards = "[...document.querySelectorAll('.card')]"
    for width in (WIDE, NARROW):
        browser.show(pages["avoid"], width)
        assert not browser.evaluate(f"{cards}.some(c => c.scrollWidth > c.clientWidth)")
        if width == WIDE:  # one row of them
            assert browser.evaluate(f"new Set({cards}.map(c => c.offsetTop)).size") == 1
