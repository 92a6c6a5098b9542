"""A tiny random PI0, its observations, and no network."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict

os.environ.setdefault("HF_HUB_OFFLINE", "1")

IMAGE, STATE, TOKENS = ("observation", "image"), ("observation", "state"), "language_instruction"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"a test touches the network: {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """Make a PI0 of 66 000 parameters: 4 tokens an image, chunks of 4 actions, padded to 5."""
    import transformers

    size = {"num_hidden_layers": 2, "num_attention_heads": 2}
    tower = {**size, "hidden_size": 32, "intermediate_size": 64}
    gemma = {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 16}
    vlm = {
        "model_type": "paligemma",
        "text_config": {**tower, **gemma, "vocab_size": 64},
        "vision_config": {
            **tower,
            "model_type": "siglip_vision_model",
            "image_size": 28,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "projection_dim": 32,
        "image_token_id": 64,
    }
    dit = {**size, **gemma, "hidden_size": 16, "intermediate_size": 32}

    def make(**options: Any) -> Any:
        sizes = {"chunk_size": 4, "max_state_dim": 6, "max_action_dim": 5} | options
        torch.manual_seed(0)
        config = transformers.PI0Config(
            vlm_config=vlm, dit_config=dit, num_inference_steps=3, **sizes
        )
        model = transformers.PI0ForConditionalGeneration(config).eval()
        with torch.no_grad():  # so that observations matter as much as in a trained model
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture
def model(make_model: Callable[..., Any]) -> Any:
    return make_model()


@pytest.fixture
def observations() -> TensorDict:
    """Three rows in TorchRL's layout, with instructions of different lengths."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 60, (3, 6), generator=generator)
    tokens[0, 4:] = 0
    image = torch.randint(0, 256, (3, 3, 28, 28), generator=generator, dtype=torch.uint8)
    state = torch.randn(3, 4, generator=generator)
    return TensorDict(
        {IMAGE: image, STATE: state, TOKENS: tokens},
        [3],
    )
