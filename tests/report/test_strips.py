from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modereg.layout import Layout
from modereg.report.films import Film
from modereg.report.page import _environment
from modereg.report.strips import FRAMES, PIXELS, animation, caption, side_of, strip, write_strips
from modereg.tasks import Task
from modereg.tasks.gaussian_mixture import gaussian_mixture_task

TASK = gaussian_mixture_task()


def film(count: int = 20, **changes: object) -> Film:
    """Return frames whose red is their number times ten."""
    frames = np.zeros((count, 30, 40, 3), np.uint8)
    frames[..., 0] = 10 * np.arange(count)[:, None, None]
    given = {"code": 3, "mode": 1, "success": True, **changes}
    return Film(frames, tuple(range(0, 2 * count, 2)), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "shown"), [(20, [0, 3, 5, 8, 11, 14, 16, 19]), (3, [0, 1, 2])])
def test_a_strip_has_the_first_frame_the_last_and_some_between(
    count: int, shown: list[int]
) -> None:
    picture = np.asarray(Image.open(io.BytesIO(strip(film(count), 60))).convert("RGBA"))
    assert picture.shape == (60, len(shown) * 83 - 3, 4)
    assert [picture[30, 40 + 83 * index, 0] // 10 for index in range(len(shown))] == shown
    assert (picture[:, 80:83, 3] == 0).all()
    assert (picture[:, :80, 3] == 255).all()


def test_the_strips_of_a_page_stay_small() -> None:
    """Noise is the worst picture there is, and still under three megabytes once in the page."""
    for number in (1, 12, 30, 80):
        assert side_of(number, (128, 128)) ** 2 * FRAMES * number <= PIXELS
    assert side_of(1, (100, 200)) == 50
    assert side_of(30, (200, 100)) <= 100
    frames = np.random.default_rng(0).integers(0, 256, (24, 128, 128, 3), dtype=np.uint8)
    noise = Film(frames, tuple(range(24)))
    assert 30 * len(strip(noise, side_of(30, (128, 128)))) < 2.25e6


def test_an_animation_repeats_and_rests() -> None:
    picture = Image.open(io.BytesIO(animation(film(12), 60)))
    assert picture.n_frames == 12
    assert picture.size == (80, 60)
    assert picture.info["loop"] == 0
    durations = []
    for index in range(12):
        picture.seek(index)
        picture.load()
        durations.append(picture.info["duration"])
    assert durations[-1] > 3 * durations[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, ("upper left", "code 3", "success after 38 steps")),
        ({"success": False}, ("code 3", "failed after 38 steps")),
        ({"success": False, "code": None}, ("failed", "after 38 steps")),
        ({"mode": None}, ("code 3", "success after 38 steps")),
        ({"mode": None, "code": None, "success": None}, ("an episode", "ended after 38 steps")),
        (
            {"code": None, "times": 3, "episodes": 8},
            ("upper left", "success after 38 steps", "3 of 8 episodes"),
        ),
    ],
)
def test_captions(given: dict[str, object], said: tuple[str, ...]) -> None:
    assert caption(TASK, film(**given)) == said


def test_modes_without_a_name_have_their_number() -> None:
    assert caption(Task("bare", TASK.make_env, Layout(9), num_modes=4), film())[0] == "mode 1"


def test_files_lie_beside_the_page(tmp_path: Path) -> None:
    shown = write_strips(tmp_path, TASK, "a & b", [film(), film(mode=2)], 40)
    names = {path.name for path in (tmp_path / "films").iterdir()}
    assert {name for name in names if name.endswith(".png")} == {
        "a-b_00_upper-left.png",
        "a-b_01_lower-left.png",
    }
    assert sum(name.endswith(".webp") for name in names) == 2
    template = _environment().get_template("parts.html").module
    text = "".join(template.film(each) for each in shown)  # type: ignore[attr-defined]
    assert text.count("data:image/webp") == 2
    assert "a &amp; b, upper left: 8 frames of an episode, code 3, success after 38 steps." in text
