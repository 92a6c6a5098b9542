from __future__ import annotations

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.recipes.setup import Setup
from modereg.report.films import RENDERED, chosen_codes, record_films, to_frames
from tests.report.pictured import (
    HEIGHT,
    PIXELS,
    WIDTH,
    Rendering,
    paint,
    pictured_setup,
    pictured_task,
    place,
    rendering_task,
)

CODES = {"episodes": 100, "code_shares": [0.1, 0.4, 0.3, 0.2]}


def steer(tensordict: TensorDict) -> TensorDict:
    """Write a noise that leads to the goal of the code's number."""
    x = torch.tensor([1.0, -1.0, -1.0, 1.0])[tensordict[keys.LATENT]]
    y = torch.tensor([1.0, 1.0, -1.0, -1.0])[tensordict[keys.LATENT]]
    return tensordict.set(keys.ACTION, torch.stack([x, y], -1)[:, None].expand(-1, 4, -1))


def point(frame: np.ndarray) -> tuple[int, int]:
    row, column = np.argwhere(frame[..., 0] == 255)[0].tolist()
    return row, column


@pytest.mark.parametrize("make", [pictured_task, rendering_task])
def test_each_mode_is_filmed_by_the_code_that_commands_it(make: object) -> None:
    """Both kinds of pictures show the same episodes, from the start into the goal."""
    setup = pictured_setup(make())  # type: ignore[operator]
    table = {"code_mode_table": [[10, 0, 0, 0], [0, 40, 0, 0], [0, 0, 30, 0], [0, 0, 0, 20]]}
    films = record_films(setup, steer, 4, CODES | table, longest=24, seed=3)
    assert [film.code for film in films] == [film.mode for film in films] == [0, 1, 2, 3]
    for film in films:
        assert film.success
        assert film.frames.shape == (len(film.steps), HEIGHT, WIDTH, 3)
        assert film.frames.dtype == np.uint8
        assert film.steps[0] == 0
        assert point(film.frames[0]) in {
            (HEIGHT // 2 - i, WIDTH // 2 - j) for i in (0, 1) for j in (0, 1)
        }
        (row, column), (goal_row, goal_column) = (
            point(film.frames[-1]),
            place(torch.tensor([[0.6, 0.6], [-0.6, 0.6], [-0.6, -0.6], [0.6, -0.6]])),
        )
        assert abs(row - int(goal_row[film.mode])) <= 2
        assert abs(column - int(goal_column[film.mode])) <= 2


def test_the_end_of_every_row_is_filmed(pictured: Setup) -> None:
    """Rows end at different steps; a film ends where its row does, and not before."""
    films = record_films(pictured, None, 1, {}, longest=24, seed=1)
    assert {film.mode for film in films if film.success} == {0, 1, 2, 3}
    assert sum(film.times for film in films) == films[0].episodes == 16
    lengths = {film.steps[-1] for film in films}
    assert len(lengths) > 1
    for film in films:
        assert len(film.steps) >= 8
        assert not np.array_equal(film.frames[-1], film.frames[0])


def test_rendering_is_rare() -> None:
    Rendering.renderings = 0
    setup = pictured_setup(rendering_task().with_layout(max_steps=24))
    films = record_films(setup, None, 1, {}, longest=12, seed=1)
    assert 8 <= Rendering.renderings <= 1 + RENDERED + 8  # the reset, on the way, and each end
    assert max(len(film.frames) for film in films) == Rendering.renderings


def test_without_a_label_every_episode_or_code_is_shown(pictured: Setup) -> None:
    setup = pictured_setup(pictured_task(num_modes=None, mode_names=None, plot=None))
    films = record_films(setup, None, 1, {}, longest=24, seed=1)
    assert [film.times for film in films] == [1] * 4
    assert [film.mode for film in films] == [None] * 4
    coded = record_films(setup, steer, 4, CODES, longest=24, seed=1)
    assert [film.code for film in coded] == [0, 1, 2, 3]


def test_films_leave_the_generator_alone(pictured: Setup) -> None:
    before = torch.random.get_rng_state()
    first, second = (record_films(pictured, None, 1, {}, longest=24, seed=2) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(first, second, strict=True))


def test_codes_that_lead_nowhere_are_not_shown() -> None:
    table = [[0, 0, 0], [0, 30, 8], [0, 25, 5], [0, 1, 9]]
    assert chosen_codes(CODES | {"code_mode_table": table}) == [2]  # 25 of 30 beat 30 of 40
    assert chosen_codes(CODES | {"code_mode_table": [[0, 0, 0]] * 4}) == [0, 1, 2, 3]
    many = {"episodes": 100, "code_shares": [0.0, *[0.05] * 20]}
    assert chosen_codes(many) == list(range(1, 13))


@pytest.mark.parametrize("layout", ["channels first", "channels last", "float", "grey"])
def test_pictures_of_any_layout(layout: str) -> None:
    pictures = paint(torch.tensor([[0.5, -0.5], [0.0, 0.3]]))
    expected = pictures.movedim(1, -1)
    given = {
        "channels first": pictures,
        "channels last": expected,
        "float": pictures / 255,
        "grey": pictures[:, :1],
    }[layout]
    if layout == "grey":
        expected = expected[..., :1].expand_as(expected)
    assert np.array_equal(to_frames(given), expected.numpy())


def test_what_is_no_picture_is_refused(pictured: Setup) -> None:
    with pytest.raises(ConfigurationError, match="of one or three channels"):
        to_frames(torch.zeros(2, 4))
    wrong = pictured_setup(pictured_task())
    object.__setattr__(wrong.task, "filmstrip_key", ("camera", "other"))
    with pytest.raises(ConfigurationError, match="expected the image") as error:
        record_films(wrong, None, 1, {}, longest=24, seed=1)
    assert str(PIXELS) in str(error.value)
    object.__setattr__(wrong.task, "filmstrip_key", None)
    with pytest.raises(ConfigurationError, match="has no render_frames"):
        record_films(wrong, None, 1, {}, longest=24, seed=1)
