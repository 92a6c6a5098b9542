"""What PI0 is told: cameras, tokens and state of TorchRL's layout in that of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from modereg.errors import ConfigurationError, ShapeError
from modereg_integrations.transformers.instructions import (
    Tokenizer,
    join_tokens,
    read_instructions,
)

if TYPE_CHECKING:
    from modereg_integrations.transformers.statistics import Statistics

__all__ = ["image_tokens", "model_inputs", "pad_state", "stack_images"]


def model_inputs(
    model: Any,
    batch: torch.Size,
    observations: Sequence[Any],
    *,
    tokenizer: Tokenizer | None,
    statistics: Statistics | None,
) -> dict[str, Tensor]:
    """Return the arguments of a model's ``forward``; see :meth:`PI0Policy.model_inputs`."""
    *images, instruction, state = observations
    vlm = model.config.vlm_config
    padding = vlm.text_config.pad_token_id
    pixels = stack_images(images, batch, vlm.vision_config.image_size).to(model.dtype)
    tokens = read_instructions(instruction, batch, tokenizer, padding)
    ids, mask = join_tokens(
        tokens.to(pixels.device),
        image_token=vlm.image_token_id,
        images=len(images) * image_tokens(model.config),
        padding=padding,
    )
    if statistics is not None:
        state = statistics.normalize_state(state)
    cameras = torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device)
    return {
        "pixel_values": pixels,
        "pixel_attention_mask": cameras,
        "input_ids": ids,
        "attention_mask": mask,
        "state": pad_state(state.to(model.dtype), model.config.max_state_dim),
    }


def image_tokens(config: Any) -> int:
    """Return the number of tokens that one camera becomes, given a ``PI0Config``."""
    vision = config.vlm_config.vision_config
    return int((vision.image_size // vision.patch_size) ** 2)


def stack_images(images: Sequence[Tensor], batch: torch.Size, size: int) -> Tensor:
    """Stack cameras ``[*B, 3, H, W]`` to ``[N, cameras, 3, size, size]`` in [-1, 1].

    ``uint8`` images in [0, 255] are scaled; floating-point ones are in [-1, 1] already. Images of
    another size are resized as transformers' ``PI0ImageProcessor`` does: bicubic, antialiased,
    their aspect kept, filled up with 0 on the right and below.

    Raises:
        ShapeError: if an image has another shape.
        ConfigurationError: if an image is of another integer type.
    """
    for image in images:
        if image.ndim != len(batch) + 3 or tuple(image.shape[:-2]) != (*batch, 3):
            raise ShapeError(
                f"expected images of shape {(*batch, 3, 'H', 'W')} (batch, channels, height, "
                f"width), got {tuple(image.shape)}; put the channels first, for example with "
                "torchrl's PermuteTransform"
            )
    rows = [image.reshape(batch.numel(), *image.shape[-3:]) for image in images]
    return torch.stack([_fit(image, size) for image in rows], 1)


def _fit(image: Tensor, size: int) -> Tensor:
    """Bring images ``[N, 3, H, W]`` to the size and the range of the model."""
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ConfigurationError(
            f"expected images as uint8 in [0, 255] or as floats in [-1, 1], got {image.dtype}"
        )
    resized = image if image.shape[-2:] == (size, size) else _resize(image, size)
    scaled = resized / 127.5 - 1.0 if image.dtype == torch.uint8 else resized
    height, width = scaled.shape[-2:]
    return functional.pad(scaled, (0, size - width, 0, size - height))


def _resize(image: Tensor, size: int) -> Tensor:
    """Resize images so that the longer side fits; values stay within those of an image."""
    sides = image.shape[-2:]
    shape = [max(size * side // max(sides), 1) for side in sides]
    resized = functional.interpolate(image.float(), shape, mode="bicubic", antialias=True)
    if image.dtype == torch.uint8:
        return resized.round().clamp(0, 255)
    return resized.to(image.dtype)


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
