"""Films on the page: frames side by side, and a small moving picture."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modereg.files import write_atomic
from modereg.report.films import Film
from modereg.tasks import Task

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FRAMES", "Shown", "animation", "caption", "side_of", "strip", "write_strips"]

FRAMES = 8
"""Frames side by side."""

PIXELS = 2_400_000
"""Pixels of all strips of a page together, at most: half a megabyte of rendered scenes."""

SIDES = (40, 100)
"""Longer side of a frame, at least and at most, in pixels: eight fit beside their words."""

GAP, COLORS, PAUSE = 3, 127, 4
"""Pixels between frames, colours of a strip, and frames for which a moving picture rests."""


def side_of(strips: int, shape: tuple[int, int]) -> int:
    """Return the height of a frame for so many strips of frames of a shape ``(H, W)``."""
    height, width = shape
    longer = np.sqrt(PIXELS / strips / FRAMES * max(shape) / min(shape))
    return int(np.clip(longer, *SIDES) * height / max(height, width))


def strip(film: Film, side: int) -> bytes:
    """Draw at most eight frames, ``side`` pixels high at most, evenly over a film's time.

    Returns:
        A PNG of at most 127 colours, transparent between the frames.
    """
    from PIL import Image

    count = min(FRAMES, len(film.frames))
    chosen = np.linspace(0, len(film.frames) - 1, count).round().astype(int)
    frames = [_resized(film.frames[index], side) for index in chosen]
    width, height = frames[0].size
    joined = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames], 1))
    joined = joined.quantize(COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    whole = Image.new("P", (count * (width + GAP) - GAP, height), COLORS)
    palette = [*(joined.getpalette() or ()), *(3 * COLORS * [0])][: 3 * COLORS]
    whole.putpalette([*palette, 255, 255, 255])
    for index in range(count):
        frame = joined.crop((index * width, 0, (index + 1) * width, height))
        whole.paste(frame, (index * (width + GAP), 0))
    buffer = io.BytesIO()
    whole.save(buffer, format="PNG", optimize=True, transparency=COLORS)
    return buffer.getvalue()


def animation(film: Film, side: int) -> bytes:
    """Return a film as an animated WebP, ``side`` pixels high, that rests at its end."""
    frames = [_resized(frame, side) for frame in film.frames]
    each = max(80, 2400 // len(frames))  # milliseconds
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        format="WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=[each] * (len(frames) - 1) + [PAUSE * max(each, 250)],
        loop=0,
        quality=60,
    )
    return buffer.getvalue()


def _resized(frame: np.ndarray, side: int) -> Image.Image:
    """Scale down to a height, or up by a whole number, so that pixels stay squares."""
    from PIL import Image

    whole = Image.fromarray(frame)
    if whole.height <= side:
        times = side // whole.height
        size = (times * whole.width, times * whole.height)
        return whole.resize(size, Image.Resampling.NEAREST)
    width = max(1, round(side * whole.width / whole.height))
    return whole.resize((width, side), Image.Resampling.BOX)


def caption(task: Task, film: Film) -> tuple[str, ...]:
    """Return what an episode is, its mode or code first, and how it came about."""
    named = film.success is not False and film.mode is not None and film.mode >= 0
    names = task.mode_names or ()
    mode = (names[film.mode or 0] if names else f"mode {film.mode}") if named else None
    code = None if film.code is None else f"code {film.code}"
    ended = {True: "success", False: "failed", None: "ended"}[film.success]
    heading = mode or code or ("failed" if ended == "failed" else "an episode")
    after = f"after {film.steps[-1]} steps"
    parts = [heading, code, after if ended == heading else f"{ended} {after}"]
    parts += [f"{film.times} of {film.episodes} episodes"] if film.episodes > 1 else []
    return tuple(dict.fromkeys(part for part in parts if part))


@dataclass(frozen=True)
class Shown:
    """A film as it stands on a page.

    Attributes:
        name: of the method and the film, for those who do not see it.
        heading: its mode or code.
        parts: how it came about.
        frames: how many stand side by side.
        still: a PNG of them.
        moving: an animated WebP.
    """

    name: str
    heading: str
    parts: tuple[str, ...]
    frames: int
    still: bytes
    moving: bytes


def write_strips(
    folder: Path, task: Task, method: str, films: Sequence[Film], side: int
) -> list[Shown]:
    """Draw the films of one method, and write them into ``films`` in the folder of the page."""
    found = []
    for index, film in enumerate(films):
        heading, *parts = caption(task, film)
        still, moving = strip(film, side), animation(film, side)
        name = re.sub(r"[^\w-]+", "-", f"{method}_{index:02d}_{heading}").lower()
        write_atomic(folder / "films" / f"{name}.png", still)
        write_atomic(folder / "films" / f"{name}.webp", moving)
        count = min(FRAMES, len(film.frames))
        found.append(Shown(f"{method}, {heading}", heading, tuple(parts), count, still, moving))
    return found
