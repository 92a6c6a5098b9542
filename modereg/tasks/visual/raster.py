"""Discs on small images, as tensors: a whole batch is painted at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modereg.tasks.visual.geometry import DISC_RADIUS, DISC_Y, POSTS

__all__ = ["Canvas", "paint", "paint_discs", "paint_posts"]

FLOOR, POST = (235.0, 235.0, 230.0), (120.0, 120.0, 120.0)
DISCS = ((210.0, 50.0, 50.0), (50.0, 80.0, 210.0))


class Canvas:
    """Square images of the plane [-0.5, 0.5] x [0, 1], whose first row is at the top (y = 1).

    Args:
        size: pixels along a side.
        device: of all tensors.
    """

    def __init__(self, size: int, device: torch.device | str | None = None) -> None:
        centres = (torch.arange(size, device=device) + 0.5) / size
        self.size, self.x, self.y = size, centres - 0.5, 1.0 - centres

    def coverage(self, centre: Tensor, radius: float) -> Tensor:
        """Share of each pixel that a disc covers, about: ``[*B, 2]`` -> ``[*B, size, size]``.

        The edge is a ramp of one pixel, so that an image tells parts of a pixel.
        """
        from_x = (self.x - centre[..., :1]).square().unsqueeze(-2)
        from_y = (self.y - centre[..., 1:]).square().unsqueeze(-1)
        distance = (from_x + from_y).sqrt()
        return ((radius - distance) * self.size + 0.5).clamp(0, 1)


def paint(image: Tensor, coverage: Tensor, colour: Tensor | Sequence[float]) -> Tensor:
    """Put a colour over images: ``[*B, 3, S, S]``, ``[*B, S, S]`` and ``[*B, 3]`` in [0, 255]."""
    colour = torch.as_tensor(colour, dtype=image.dtype, device=image.device)
    return torch.lerp(image, colour[..., None, None].expand_as(image), coverage.unsqueeze(-3))


def paint_posts(canvas: Canvas) -> Tensor:
    """Paint the floor and the posts: ``[3, S, S]``."""
    image = torch.tensor(FLOOR, device=canvas.x.device)[:, None, None]
    image = image.repeat(1, canvas.size, canvas.size)
    for x, y, radius in POSTS:
        image = paint(image, canvas.coverage(canvas.x.new_tensor([x, y]), radius), POST)
    return image


def paint_discs(canvas: Canvas, image: Tensor, discs: Tensor) -> Tensor:
    """Paint the discs at x ``[N, 2]`` over one image: ``[N, 3, S, S]``."""
    images = image.expand(len(discs), *image.shape)
    for colour, x in zip(DISCS, discs.unbind(1), strict=True):
        centre = torch.stack([x, torch.full_like(x, DISC_Y)], -1)
        images = paint(images, canvas.coverage(centre, DISC_RADIUS), colour)
    return images
