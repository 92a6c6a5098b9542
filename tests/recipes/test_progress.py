from __future__ import annotations

import re
import sys

import pytest
import torch

from modereg.recipes import progress
from modereg.recipes.progress import Phase, Progress, counted_steps


class Clock:
    """Seconds that pass only when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "perf_counter", clock)
    return clock


def test_the_estimate_counts_what_this_process_has_done(clock: Clock) -> None:
    """A run that goes on at 60 of 100 and does 10 in 5 seconds needs 15 for the other 30."""
    phase = Phase("training", 100, done=60, first=60, began=clock())
    assert phase.seconds_left is None
    clock.now += 5
    phase.done = 70
    assert phase.seconds_left == pytest.approx(15)
    phase.done = 120
    assert phase.seconds_left == 0
    assert Phase("clustering", None, done=3, began=0.0).seconds_left is None


def test_lines_come_now_and_then_and_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("run") as shown:
        shown.phase("clustering")
        shown.phase("training", 1000, 200)
        for done in range(201, 1001):
            clock.now += 0.1
            shown.update(done, success=done / 1000)
        shown.phase("judging", 10)
        shown.update(4)
        clock.now += 1
        shown.update(6)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "run, clustering ..."
    assert lines[1] == (
        "run, training: 201/1000 (20%), 00:00 passed, about 01:20 left, success=0.201"
    )
    assert lines[-3] == "run, training: 1000/1000 (100%), 01:20 passed, success=1"
    assert lines[-2:] == [
        "run, judging: 4/10 (40%), 00:00 passed, about 00:00 left",
        "run, judging: 6/10 (60%), 00:01 passed, about 00:01 left",
    ]
    assert 8 <= len(lines) <= 13  # every ten seconds of eighty


def test_a_log_has_neither_colours_nor_carriage_returns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress("run") as shown:
        for name in ("one", "two"):
            shown.phase(name, 5)
            for done in range(1, 6):
                shown.update(done)
    text = capsys.readouterr().err
    assert re.fullmatch(r"(run, (one|two): [15]/5 [^\r\x1b\n]*\n){4}", text)


def test_on_a_terminal_one_line_is_drawn_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("run") as shown:
        shown.phase("clustering")
        shown.phase("training", 10, 4)
        shown.update(10, success=0.98765)
    text = capsys.readouterr().err
    assert "run, clustering ..." in text
    assert "run, clustering: 00:00 passed" in text
    assert "10/10" in text
    assert "success=0.988" in text
    assert text.count("\r") >= 2
    assert "\x1b[3" not in text  # no colour
    monkeypatch.setenv("TERM", "dumb")
    with Progress("run") as shown:
        shown.update(1, 2)
    assert "\r" not in capsys.readouterr().err


def test_quiet_progress_still_knows_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("run", shown=False) as shown:
        shown.phase("training", 10)
        shown.update(5, loss=1.0)
    assert (shown.current.done, shown.current.total) == (5, 10)
    assert capsys.readouterr().err == ""


def test_gradient_steps_are_counted_from_outside() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizers = [torch.optim.Adam([weight]), torch.optim.SGD([weight], 0.1)]
    seen: list[int] = []
    with counted_steps(seen.append):
        for optimizer in optimizers:
            weight.sum().backward()
            optimizer.step()
    optimizers[0].step()
    assert seen == [1, 2]
