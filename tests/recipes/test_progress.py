from __future__ import annotations

import re
import sys

import pytest

from modereg.recipes import progress
from modereg.recipes.progress import Progress


class Clock:
    """Seconds that pass only when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_the_estimate_counts_what_this_process_has_done(clock: Clock) -> None:
    """A run that goes on at 60 of 100 and does 10 in 5 seconds needs 15 for the other 30."""
    with Progress("run", shown=False) as shown:
        shown.phase("training", 100, done=60)
        assert shown.seconds_left is None
        clock.now += 5
        shown.update(70)
        assert shown.seconds_left == pytest.approx(15)
        shown.update(120)
        assert shown.seconds_left == 0
        shown.phase("clustering")
        shown.update(3)
        assert shown.seconds_left is None


def test_a_phase_begins_when_another_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("run") as shown:
        shown.show("one", 1, 4)
        shown.show("one", 4, 4)
        shown.show("two", 2, 4, success=0.98765)
        assert shown.current == "two"
    lines = capsys.readouterr().err.splitlines()
    ends = [line for line in lines if "4/4" in line or "2/4" in line]
    assert ends[0].startswith("run, one: 100%")
    assert ends[-1].startswith("run, two:")
    assert "success=0.988" in lines[-1]


def test_lines_in_a_file_are_few(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A thousand updates in no time: how a phase began, and how it ended."""
    with Progress("run") as shown:
        shown.phase("training", 1000)
        for done in range(1, 1001):
            shown.update(done)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3
    assert "1000/1000" in lines[-1]


def test_a_log_has_neither_colours_nor_carriage_returns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress("run") as shown:
        shown.say("about 3 M environment steps")
        for name in ("one", "two"):
            shown.phase(name, 5)
            for done in range(1, 6):
                shown.update(done)
        shown.phase("clustering")
    text = capsys.readouterr().err
    assert text.startswith("run: about 3 M environment steps\n")
    assert re.fullmatch(r"(run[:,] [^\r\x1b\n]+\n)+", text)


def test_on_a_terminal_one_line_is_drawn_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("run") as shown:
        shown.phase("training", 10, 4)
        shown.update(10, success=0.98765)
    text = capsys.readouterr().err
    assert "10/10" in text
    assert text.count("\r") >= 2
    assert "\x1b[3" not in text  # no colour
    monkeypatch.setenv("TERM", "dumb")
    with Progress("run") as shown:
        shown.phase("training", 2)
        shown.update(1)
    assert "\r" not in capsys.readouterr().err


def test_quiet_progress_still_knows_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("run", shown=False) as shown:
        shown.phase("training", 10)
        shown.say("nothing")
        shown.update(5, loss=1.0)
        assert shown.current == "training"
        assert shown.seconds_left is not None
    assert capsys.readouterr().err == ""
