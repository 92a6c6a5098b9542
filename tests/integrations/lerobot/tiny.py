"""Tiny random policies of LeRobot, of its own classes, made without a network.

What is replaced, and why:

- SmolVLA's backbone is a folder with a small SmolVLM configuration and a tokenizer of a few words,
  which ``vlm_model_name`` names; LeRobot builds it with ``load_vlm_weights=False``.
- PI0 has the sizes of its two Gemmas and of its vision tower in its code, not in its configuration:
  :func:`small_pi0` shrinks the configurations that its own constructor makes, before its classes
  get them. The name of its tokenizer is in its code too, and LeRobot finds it in the hub's cache:
  :func:`write_hub` puts a tokenizer of a few words there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.diffusion.modeling_diffusion import DiffusionConfig, DiffusionPolicy
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.pi0 import modeling_pi0
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAConfig, SmolVLAPolicy
from tensordict import NonTensorStack, TensorDict
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

STATE, ACTIONS, IMAGE = 4, 3, 56
WORDS = ["pick", "place", "the", "cube", "red", "blue", "into", "bowl"]
STATS = {
    "observation.state": {
        "mean": torch.tensor([0.5, 0.0, 1.0, -1.0]),
        "std": torch.tensor([2.0, 1.0, 0.5, 3.0]),
        "min": torch.tensor([-2.0, -1.0, -3.0, -4.0]),
        "max": torch.tensor([2.0, 3.0, 1.0, 4.0]),
    },
    "observation.images.top": {
        "mean": torch.full((3, 1, 1), 0.4),
        "std": torch.full((3, 1, 1), 0.2),
    },
    "action": {
        "mean": torch.tensor([1.0, 2.0, 3.0]),
        "std": torch.tensor([0.1, 0.2, 10.0]),
        "min": torch.tensor([-1.0, -2.0, 0.0]),
        "max": torch.tensor([1.0, 3.0, 5.0]),
    },
}
"""Statistics of a dataset, with which LeRobot normalises."""


def features(*cameras: str, environment: int = 0) -> dict[str, Any]:
    """Return the ``input_features`` and ``output_features`` of a configuration."""
    inputs = {"observation.state": PolicyFeature(FeatureType.STATE, (STATE,))}
    for name in cameras:
        inputs[name] = PolicyFeature(FeatureType.VISUAL, (3, IMAGE, IMAGE))
    if environment:
        inputs["observation.environment_state"] = PolicyFeature(FeatureType.ENV, (environment,))
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (ACTIONS,))}
    return {"input_features": inputs, "output_features": outputs, "device": "cpu"}


def shake(policy: Any) -> Any:
    """Make observations matter as much as in a trained policy."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


def make_diffusion(*cameras: str, environment: int = 5, **options: Any) -> tuple[Any, Any, Any]:
    """Make a DiffusionPolicy and its processors: horizon 8, of which it executes 4."""
    sizes = {"horizon": 8, "n_action_steps": 4, "n_obs_steps": 2, "num_train_timesteps": 20}
    network = {"down_dims": (16, 32), "n_groups": 4, "diffusion_step_embed_dim": 16}
    vision = {"pretrained_backbone_weights": None, "spatial_softmax_num_keypoints": 4}
    scheduler = {"noise_scheduler_type": "DDIM", "num_inference_steps": 4}
    chosen = {**sizes, **network, **vision, **scheduler, **options}
    torch.manual_seed(0)
    config = DiffusionConfig(**features(*cameras, environment=environment), **chosen)
    return DiffusionPolicy(config), *make_pre_post_processors(config, dataset_stats=STATS)


def make_smolvla(backbone: Path, *cameras: str, **options: Any) -> tuple[Any, Any, Any]:
    """Make a SmolVLA and its processors: chunks of 6 actions, padded to 5 dimensions."""
    sizes = {"chunk_size": 6, "n_action_steps": 3, "max_state_dim": 7, "max_action_dim": 5}
    network = {"num_vlm_layers": 2, "num_steps": 3, "resize_imgs_with_padding": (IMAGE, IMAGE)}
    chosen = {"vlm_model_name": str(backbone), **sizes, **network, **options}
    torch.manual_seed(0)
    config = SmolVLAConfig(**features(*cameras or ["observation.images.top"]), **chosen)
    return shake(SmolVLAPolicy(config)), *make_pre_post_processors(config, dataset_stats=STATS)


def make_pi0(*cameras: str, **options: Any) -> tuple[Any, Any, Any]:
    """Make a PI0 and its processors within :func:`small_pi0`; sizes as of :func:`make_smolvla`."""
    sizes = {"chunk_size": 6, "n_action_steps": 3, "max_state_dim": 7, "max_action_dim": 5}
    network = {"num_inference_steps": 3, "image_resolution": (IMAGE, IMAGE)}
    torch.manual_seed(0)
    config = modeling_pi0.PI0Config(
        **features(*cameras or ["observation.images.top"]), **{**sizes, **network, **options}
    )
    policy = shake(modeling_pi0.PI0Policy(config))
    return policy, *make_pre_post_processors(config, dataset_stats=STATS)


def make_observations(rows: int = 3, history: int = 0, environment: int = 0) -> TensorDict:
    """Return observations under the nested keys of LeRobot's names."""
    draw = torch.Generator().manual_seed(1)
    steps = (history,) if history else ()
    size = (rows, *steps, 3, IMAGE, IMAGE)
    cameras = {
        name: torch.randint(0, 256, size, generator=draw, dtype=torch.uint8)
        for name in ("top", "wrist")
    }
    data = TensorDict(
        {"observation": TensorDict({"images": TensorDict(cameras, [rows])}, [rows])}, [rows]
    )
    data["observation", "state"] = torch.randn((rows, *steps, STATE), generator=draw)
    if environment:
        world = torch.randn((rows, *steps, environment), generator=draw)
        data["observation", "environment_state"] = world
    texts = ["pick the cube", "place the red cube into the bowl", "pick the blue cube"]
    data["language_instruction"] = NonTensorStack(*[texts[row % 3] for row in range(rows)])
    return data


def _tokenizer(names: dict[str, str]) -> PreTrainedTokenizerFast:
    special = ["<pad>", "<unk>", "<eos>", *names.values()]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        extra_special_tokens=names,
    )


def write_backbone(folder: Path) -> Path:
    """Write the configuration and the processor of a small SmolVLM."""
    tokenizer = _tokenizer(
        {
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "image_token": "<image>",
            "end_of_utterance_token": "<end_of_utterance>",
        }
    )
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    text = {"model_type": "llama", "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 16}
    vision = {"num_hidden_layers": 2, "image_size": IMAGE, "patch_size": 14}
    SmolVLMConfig(
        text_config={**tower, **text, "vocab_size": len(tokenizer)},
        vision_config={**tower, **vision},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)
    parts = (SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor())
    SmolVLMProcessor(*parts).save_pretrained(folder)
    return folder


def write_hub(cache: Path) -> None:
    """Write a tokenizer into a cache of the hub under the name that PI0's preprocessor asks for."""
    repository = cache / "models--google--paligemma-3b-pt-224"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    folder = repository / "snapshots" / ("0" * 40)
    _tokenizer({}).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "paligemma"}))


@contextmanager
def small_pi0() -> Iterator[None]:
    """Let LeRobot's PI0 be small: its own classes with 16 wide towers of 2 layers."""
    sizes = modeling_pi0.GemmaConfig(16, 2, 32, num_heads=8, num_kv_heads=1, head_dim=8)
    whole = modeling_pi0.PaliGemmaForConditionalGenerationWithPiGemma
    expert = modeling_pi0.PiGemmaForCausalLM

    def small_whole(config: Any) -> Any:
        tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        for name, size in {**tower, "num_attention_heads": 2, "projection_dim": 16}.items():
            setattr(config.vision_config, name, size)
        config.text_config.vocab_size = 64
        return whole(config)

    def small_expert(config: Any) -> Any:
        config.vocab_size = 64
        return expert(config)

    with mock.patch.multiple(
        modeling_pi0,
        get_gemma_config=lambda variant: sizes,
        PaliGemmaForConditionalGenerationWithPiGemma=small_whole,
        PiGemmaForCausalLM=small_expert,
    ):
        yield
