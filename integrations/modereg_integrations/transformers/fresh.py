"""A fresh, small PI0: for tests of a pipeline, and for tasks that a small model can learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tensordict import NestedKey

from modereg.errors import ConfigurationError
from modereg_integrations.transformers.library import library

__all__ = ["check_shapes", "fresh_model"]

_HEAD_DIM = 16


def fresh_model(
    *,
    image_size: int,
    state_dim: int,
    chunk_shape: Sequence[int],
    hidden: Sequence[int] = (32, 32),
    patches: int = 2,
    vocabulary: int = 256,
    num_inference_steps: int = 5,
) -> Any:
    """Make a ``PI0ForConditionalGeneration`` with random weights.

    The three towers (vision, language, action expert) have the same width and depth; nothing is
    padded: noise has the true action dimensions. Two layers of width 32 are 100 000 parameters.

    Args:
        image_size: pixels along a side, a multiple of ``patches``.
        state_dim: numbers of the state, S.
        chunk_shape: ``(H, A)``.
        hidden: width of each layer, all equal, an even multiple of 16.
        patches: patches along a side of an image, each of them a token.
        vocabulary: ids of instructions are below it; 0 is padding.
        num_inference_steps: Euler steps of a decode.

    Raises:
        MissingDependencyError: if transformers is not installed.
        ConfigurationError: if a size does not fit.
    """
    _check(image_size, hidden, patches)
    width = hidden[0]
    layers = {"num_hidden_layers": len(hidden), "num_attention_heads": width // _HEAD_DIM}
    tower = {
        **layers,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "initializer_range": width**-0.5,
    }
    gemma = {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": _HEAD_DIM}
    vision = {
        "model_type": "siglip_vision_model",
        "image_size": image_size,
        "patch_size": image_size // patches,
        "vision_use_head": False,
    }
    config = library().PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": {**tower, **gemma, "vocab_size": vocabulary},
            "vision_config": {**tower, **vision},
            "projection_dim": width,
            "image_token_id": vocabulary,
        },
        dit_config={**tower, **gemma, "intermediate_size": 4 * width},
        chunk_size=chunk_shape[0],
        max_action_dim=chunk_shape[1],
        max_state_dim=state_dim,
        num_inference_steps=num_inference_steps,
    )
    return library().PI0ForConditionalGeneration(config)


def check_shapes(
    observation_shapes: Mapping[NestedKey, Sequence[int]], method: str
) -> list[NestedKey]:
    """Return the keys of observations in the order images, instruction, state.

    Raises:
        ConfigurationError: if the method is no flow, or the shapes are not of these.
    """
    if method != "flow":
        raise ConfigurationError(f"expected method 'flow', which PI0 is, got {method!r}")
    ranks = [len(shape) for shape in observation_shapes.values()]
    if len(ranks) < 3 or set(ranks[:-2]) != {3} or ranks[-2:] != [1, 1]:
        raise ConfigurationError(
            "expected observations in the order images [3, H, W], instruction [L], state [S], got "
            f"{ ({key: tuple(shape) for key, shape in observation_shapes.items()}) }"
        )
    return list(observation_shapes)


def _check(image_size: int, hidden: Sequence[int], patches: int) -> None:
    if not hidden or len(set(hidden)) != 1 or hidden[0] < 1 or hidden[0] % (2 * _HEAD_DIM):
        raise ConfigurationError(
            f"expected hidden layers of one width, a multiple of {2 * _HEAD_DIM} such as (32, 32), "
            f"got {tuple(hidden)}"
        )
    if patches < 1 or image_size % patches:
        raise ConfigurationError(
            f"expected images whose side is a multiple of {patches} patches, got {image_size}"
        )
