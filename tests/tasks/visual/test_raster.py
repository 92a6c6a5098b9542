"""Discs on images."""

from __future__ import annotations

import math

import pytest
import torch

from modereg.tasks.visual.raster import Canvas, paint


@pytest.mark.parametrize("size", [28, 64])
def test_a_disc_covers_its_area(size: int) -> None:
    canvas = Canvas(size)
    centres = torch.tensor([[[0.1, 0.4], [-0.2, 0.63]]])
    covered = canvas.coverage(centres, 0.15)
    assert covered.shape == (1, 2, size, size)
    area = covered.sum((-1, -2)) / size**2
    torch.testing.assert_close(area, torch.full((1, 2), math.pi * 0.15**2), rtol=0.02, atol=0)


def test_a_disc_is_where_it_is() -> None:
    canvas = Canvas(32)
    covered = canvas.coverage(torch.tensor([0.25, 0.8]), 0.1)
    x = (covered.sum(0) * canvas.x).sum() / covered.sum()
    y = (covered.sum(1) * canvas.y).sum() / covered.sum()
    assert (float(x), float(y)) == pytest.approx((0.25, 0.8), abs=0.005)
    assert canvas.y[0] > canvas.y[-1]  # the first row is at the top


def test_paint_lies_over_the_image() -> None:
    image = torch.full((2, 3, 4, 4), 100.0)
    covered = torch.zeros(2, 4, 4)
    covered[0, 1, 2], covered[1] = 1.0, 0.5
    painted = paint(image, covered, [0.0, 200.0, 100.0])
    assert painted[0, :, 1, 2].tolist() == [0.0, 200.0, 100.0]
    assert bool((painted[0, :, 0] == 100).all())
    assert painted[1, :, 3, 3].tolist() == [50.0, 150.0, 100.0]
