"""What PI0 is told: cameras, tokens and state of TorchRL's layout in that of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from modereg.errors import ConfigurationError, ShapeError

__all__ = ["image_tokens", "join_tokens", "pad_state", "stack_images"]


def image_tokens(config: Any) -> int:
    """Return the number of tokens that one camera becomes, given a ``PI0Config``."""
    vision = config.vlm_config.vision_config
    return int((vision.image_size // vision.patch_size) ** 2)


def stack_images(images: Sequence[Tensor], batch: torch.Size, size: int) -> Tensor:
    """Stack cameras ``[*B, 3, size, size]`` to ``[N, cameras, 3, size, size]`` in [-1, 1].

    ``uint8`` images in [0, 255] are scaled; floating-point ones are in [-1, 1] already.

    Raises:
        ShapeError: if an image has another shape.
        ConfigurationError: if an image is of another integer type.
    """
    expected = (*batch, 3, size, size)
    for image in images:
        if tuple(image.shape) != expected:
            raise ShapeError(
                f"expected images of shape {expected} (batch, channels, height, width), got "
                f"{tuple(image.shape)}; resize them, for example with torchrl's Resize"
            )
    scaled = [_scale(image).reshape(-1, 3, size, size) for image in images]
    return torch.stack(scaled, 1)


def _scale(image: Tensor) -> Tensor:
    if image.dtype == torch.uint8:
        return image.float() / 127.5 - 1.0
    if image.is_floating_point():
        return image
    raise ConfigurationError(
        f"expected images as uint8 in [0, 255] or as floats in [-1, 1], got {image.dtype}"
    )


def join_tokens(
    tokens: Any, batch: torch.Size, *, image_token: int, images: int, padding: int | None
) -> tuple[Tensor, Tensor]:
    """Put the places of the images before the tokens of an instruction.

    Args:
        tokens: ``[*B, L]`` int64.
        batch: B.
        image_token: id that stands for a place of an image.
        images: number of such places.
        padding: id that fills up instructions; None where there is none.

    Returns:
        The ids and the attention mask (1 where a token counts), ``[N, images + L]`` int64 each.

    Raises:
        ConfigurationError: if the tokens are text, not integers, or have places of images.
        ShapeError: if their batch is another.
    """
    if not isinstance(tokens, Tensor) or tokens.is_floating_point():
        kind = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ConfigurationError(
            f"expected the instruction as token ids [*B, L] of type int64, got {kind}; give the "
            "ids that the model's tokenizer makes of bos + text + newline"
        )
    if tokens.ndim != len(batch) + 1 or tokens.shape[:-1] != batch:
        raise ShapeError(f"expected token ids of shape {(*batch, 'L')}, got {tuple(tokens.shape)}")
    flat = tokens.reshape(batch.numel(), tokens.shape[-1]).long()
    if bool((flat == image_token).any()):
        raise ConfigurationError(
            f"expected an instruction without images, got ids with {image_token}, the place of an "
            "image; leave these out, they are put before the instruction here"
        )
    ids = functional.pad(flat, (images, 0), value=image_token)
    mask = torch.ones_like(ids)
    if padding is not None:
        mask[:, images:] = flat != padding
    return ids, mask


def pad_state(state: Tensor, size: int) -> Tensor:
    """Flatten the batch of states ``[*B, S]`` and fill them up with zeros: ``[N, size]``.

    Raises:
        ShapeError: if they are longer.
    """
    if state.shape[-1] > size:
        raise ShapeError(
            f"expected states of at most {size} numbers, the max_state_dim of the model, got "
            f"{tuple(state.shape)}"
        )
    flat = state.reshape(state.shape[:-1].numel(), state.shape[-1])
    return functional.pad(flat, (0, size - state.shape[-1]))
