"""Images of any size become those of the model, as transformers' processor makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from modereg.errors import ConfigurationError, ShapeError
from modereg_integrations.transformers.inputs import stack_images


def photograph(height: int, width: int) -> torch.Tensor:
    """A smooth coloured picture, ``[3, height, width]`` uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 5, 5, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return smooth[0].to(torch.uint8)


@pytest.mark.parametrize("size", [(64, 64), (20, 20), (49, 49)])
def test_resized_as_pillow_does(size: tuple[int, int]) -> None:
    image = photograph(*size)
    (ours,) = stack_images([image[None]], torch.Size([1]), 28)[:, 0]
    theirs = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((28, 28), Image.BICUBIC)
    expected = torch.from_numpy(np.array(theirs)).permute(2, 0, 1)
    assert ((ours + 1) * 127.5 - expected).abs().max() <= 1.01


@pytest.mark.parametrize(("size", "filled"), [((32, 64), (14, 28)), ((60, 20), (28, 9))])
def test_the_aspect_is_kept_and_the_rest_is_filled(
    size: tuple[int, int], filled: tuple[int, int]
) -> None:
    image = torch.full((2, 3, *size), 255, dtype=torch.uint8)
    stacked = stack_images([image], torch.Size([2]), 28)
    expected = torch.zeros(2, 1, 3, 28, 28)
    expected[..., : filled[0], : filled[1]] = 1.0
    torch.testing.assert_close(stacked, expected)


def test_floats_keep_their_range_and_cameras_may_differ_in_size() -> None:
    first, second = torch.full((3, 16, 16), -0.5), torch.full((3, 28, 28), 0.25)
    stacked = stack_images([first, second], torch.Size([]), 28)
    assert stacked.shape == (1, 2, 3, 28, 28)
    torch.testing.assert_close(stacked[0, 0], torch.full((3, 28, 28), -0.5))
    assert torch.equal(stacked[0, 1], second)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 3, 'H', 'W'\).*PermuteTransform"):
        stack_images([torch.zeros(2, 28, 28, 3)], torch.Size([2]), 28)
    with pytest.raises(ConfigurationError, match="as uint8"):
        stack_images([torch.zeros(2, 3, 28, 28, dtype=torch.int64)], torch.Size([2]), 28)
