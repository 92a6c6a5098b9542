"""Films on the page: frames side by side, and a small moving picture."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modereg.report import html
from modereg.report.films import Film
from modereg.storage import write_atomic
from modereg.tasks import Task

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FRAMES", "Strips", "animation", "caption", "side_of", "strip"]

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
    """Draw at most eight frames of a film side by side, evenly over its time.

    Args:
        film: the episode.
        side: height of a frame, at most, in pixels.

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
    """Return a film as an animated WebP that repeats, resting at its end.

    Args:
        film: the episode.
        side: height of a frame, in pixels.
    """
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
class Strips:
    """Writes films into a folder and onto the page.

    Attributes:
        folder: of the page; files go into ``films`` beside it.
        task: names the modes.
        side: height of a frame, in pixels.
        animate: whether a moving picture stands beside each strip.
    """

    folder: Path
    task: Task
    side: int
    animate: bool

    def rows(self, method: str, films: Sequence[Film]) -> str:
        """Return the films of one method, a row each."""
        return "".join(self._row(method, index, film) for index, film in enumerate(films))

    def _row(self, method: str, index: int, film: Film) -> str:
        heading, *parts = caption(self.task, film)
        name = re.sub(r"[^\w-]+", "-", f"{method}_{index:02d}_{heading}").lower()
        count = min(FRAMES, len(film.frames))
        alt = f"{method}, {heading}: {count} frames of an episode, {', '.join(parts)}."
        still = self._image(f"{name}.png", strip(film, self.side), alt, "strip")
        moving = ""
        if self.animate:
            alt = f"{method}, {heading}: the same episode, moving."
            moving = self._image(f"{name}.webp", animation(film, self.side), alt, "motion")
        below = " ".join(f"<span>{escape(part)}</span>" for part in parts)
        return (
            f'<figure class="film"><figcaption><b>{escape(heading)}</b> {below}</figcaption>'
            f'{moving}<div class="reel" tabindex="0">{still}</div></figure>'
        )

    def _image(self, name: str, data: bytes, alt: str, kind: str) -> str:
        write_atomic(self.folder / "films" / name, data)
        return html.image(data, alt, kind)
