"""Saved policies of LeRobot: the same after loading, by the command line too, and never by half."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modereg.errors import CheckpointError, ConfigurationError, StochasticSamplerError
from modereg.plugins import policy_loader, resolve_policy
from modereg_integrations.folders import OPTIONS
from modereg_integrations.lerobot import LeRobotPolicy

WEIGHTS = "model.safetensors"
PROCESSORS = ["policy_preprocessor.json", "policy_postprocessor.json"]

Make = Callable[..., Any]


def save_theirs(made: tuple[Any, Any, Any], folder: Path) -> Path:
    """Write what lerobot-train writes: a policy and its processors."""
    for part in made:
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["diffusion", "diffusion of images", "smolvla", "pi0"])
def test_the_command_lines_loader_gives_the_same_policy(
    make: Make, kind: str, tmp_path: Path
) -> None:
    made, data = make(kind)
    policy = LeRobotPolicy(*made).requires_grad_(False)
    policy.save_pretrained(tmp_path / "policy")
    loaded = resolve_policy(str(tmp_path / "policy"))
    assert isinstance(loaded, LeRobotPolicy)
    assert loaded.fingerprint() == policy.fingerprint()
    assert loaded.in_keys == policy.in_keys
    assert not loaded.policy.training
    noise = policy.draw_noise([3])
    chunk = policy.decode_from(data, noise)
    torch.testing.assert_close(loaded.decode_from(data, noise), chunk, rtol=1e-6, atol=1e-6)


def test_keys_and_task_are_kept_and_may_be_replaced(make: Make, tmp_path: Path) -> None:
    made, _ = make("pi0")
    entries = {"observation.state": ("robot", "joints"), "observation.images.top": "camera"}
    policy = LeRobotPolicy(*made, entries=entries, task="pick", noise_key=("x", "w"), chunk_key="y")
    policy.save_pretrained(tmp_path / "policy")
    loaded = LeRobotPolicy.from_pretrained(tmp_path / "policy")
    keys = [("robot", "joints"), "camera", ("observation", "images", "wrist")]
    assert loaded.observation_keys == keys
    assert (loaded.task, loaded.noise_key, loaded.chunk_key) == ("pick", ("x", "w"), "y")
    other = LeRobotPolicy.from_pretrained(tmp_path / "policy", task="place", noise_key="w")
    assert (other.task, other.noise_key) == ("place", "w")


def test_a_folder_of_lerobot_itself(make: Make, tmp_path: Path) -> None:
    made, _ = make("smolvla")
    save_theirs(made, tmp_path)
    loader = policy_loader("lerobot")
    assert loader.can_load(tmp_path)
    assert loader.load(tmp_path).fingerprint() == LeRobotPolicy(*made).fingerprint()


def test_its_configuration_may_be_replaced(make: Make, tmp_path: Path) -> None:
    save_theirs(make("diffusion", noise_scheduler_type="DDPM")[0], tmp_path)
    with pytest.raises(StochasticSamplerError, match="config.json"):
        resolve_policy(str(tmp_path))
    config = {"noise_scheduler_type": "DDIM", "num_inference_steps": 5}
    policy = LeRobotPolicy.from_pretrained(tmp_path, config=config)
    assert policy.config.num_inference_steps == 5
    expected = LeRobotPolicy(*make("diffusion", num_inference_steps=5)[0])
    assert policy.fingerprint() == expected.fingerprint()
    policy.save_pretrained(tmp_path / "again")
    assert resolve_policy(str(tmp_path / "again")).fingerprint() == expected.fingerprint()
    with pytest.raises(ConfigurationError, match=r"of a DiffusionConfig.*got \['steps'\]"):
        LeRobotPolicy.from_pretrained(tmp_path, config={"steps": 5})
    with pytest.raises(ConfigurationError, match="multiple of the downsampling factor"):
        LeRobotPolicy.from_pretrained(tmp_path, config={"horizon": 7})


def test_weights_of_a_vision_backbone_are_not_fetched(make: Make, tmp_path: Path) -> None:
    """They are those of the folder, whatever the policy was trained from."""
    made, _ = make("diffusion of images")
    expected = LeRobotPolicy(*made).fingerprint()
    made[0].config.pretrained_backbone_weights = "ResNet18_Weights.IMAGENET1K_V1"
    save_theirs(made, tmp_path)
    assert LeRobotPolicy.from_pretrained(tmp_path).fingerprint() == expected


@pytest.mark.parametrize("kind", ["diffusion", "pi0"])
def test_missing_and_foreign_weights_are_refused(make: Make, kind: str, tmp_path: Path) -> None:
    """LeRobot prints that it could not load PI0's, and goes on with random ones."""
    save_theirs(make(kind)[0], tmp_path)
    whole = load_file(tmp_path / WEIGHTS)
    name = next(key for key in whole if key.endswith(".bias"))
    save_file({key: whole[key] for key in whole if key != name}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError):
        LeRobotPolicy.from_pretrained(tmp_path)
    save_file({**whole, "other": torch.ones(1)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="other"):
        LeRobotPolicy.from_pretrained(tmp_path)
    save_file({**whole, name: torch.ones(17)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=name):
        LeRobotPolicy.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["diffusion", "smolvla", "pi0"])
def test_a_flipped_bit_anywhere_is_noticed(make: Make, kind: str, tmp_path: Path) -> None:
    """Of the weights, of the statistics that normalise, of what a file names."""
    LeRobotPolicy(*make(kind)[0]).save_pretrained(tmp_path)
    paths = [path for path in tmp_path.iterdir() if path.suffix != ".md"]
    assert len(paths) >= 6
    for place, path in enumerate(paths):
        whole = path.read_bytes()
        data = bytearray(whole)
        data[len(data) * (place + 1) // (len(paths) + 1)] ^= 1 << place % 7
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            LeRobotPolicy.from_pretrained(tmp_path)
        path.write_bytes(whole)
    LeRobotPolicy.from_pretrained(tmp_path)


def test_an_entry_that_left_the_configuration_is_noticed(make: Make, tmp_path: Path) -> None:
    """Without num_inference_steps LeRobot denoises in as many as it was trained with."""
    LeRobotPolicy(*make("diffusion")[0]).save_pretrained(tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text())
    for name in ("num_inference_steps", "beta_schedule", "clip_sample_range"):
        part = {key: value for key, value in whole.items() if key != name}
        (tmp_path / "config.json").write_text(json.dumps(part))
        with pytest.raises(CheckpointError, match="config.json is not what was saved"):
            LeRobotPolicy.from_pretrained(tmp_path)


def test_a_saved_policy_is_replaced(make: Make, tmp_path: Path) -> None:
    made, _ = make("pi0")
    LeRobotPolicy(*made, task="pick").save_pretrained(tmp_path / "policy")
    LeRobotPolicy(*made, task="place").save_pretrained(tmp_path / "policy")
    assert LeRobotPolicy.from_pretrained(tmp_path / "policy").task == "place"
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


@pytest.mark.parametrize("kind", ["diffusion", "smolvla", "pi0"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_type(make: Make, tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    """LeRobot makes a policy in its configured type, and casts the weights that it reads."""
    made, data = make(kind)
    policy = LeRobotPolicy(*made)
    noise = policy.draw_noise([3])
    expected = policy.decode_from(data, noise)
    policy.policy.to(dtype)
    policy.save_pretrained(tmp_path)
    chunk = LeRobotPolicy.from_pretrained(tmp_path).decode_from(data, noise)
    assert chunk.dtype == torch.float32
    assert (chunk - expected).abs().mean() < 0.1 * expected.abs().mean()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_unet_that_lerobot_cannot_run_is_one_sentence(make: Make, dtype: torch.dtype) -> None:
    made, data = make("diffusion")
    policy = LeRobotPolicy(*made)
    policy.policy.to(dtype)
    with pytest.raises(ConfigurationError, match="float32 weights"):
        policy.decode_from(data, policy.draw_noise([3]))
    policy.float().decode_from(data, policy.draw_noise([3]))


@pytest.mark.parametrize("damage", ["cut", "gone"])
@pytest.mark.parametrize("name", [WEIGHTS, "config.json", OPTIONS, *PROCESSORS])
def test_damaged_folders_are_refused(make: Make, tmp_path: Path, name: str, damage: str) -> None:
    LeRobotPolicy(*make("diffusion")[0]).save_pretrained(tmp_path)
    path = tmp_path / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif name == OPTIONS:
        path.write_text('{"format": 2}')
    else:
        path.unlink()
    with pytest.raises(CheckpointError):
        LeRobotPolicy.from_pretrained(tmp_path)


def test_a_full_folder_is_left_alone(make: Make, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty"):
        LeRobotPolicy(*make("diffusion")[0]).save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_impossible_and_foreign_configurations_are_refused(make: Make, tmp_path: Path) -> None:
    save_theirs(make("diffusion")[0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for wrong in (
        {"horizon": "many"},
        {"horizon": 7},
        {"type": "a_new_one"},
        {"num_train_timesteps": 10**9},
        {"down_dims": [10**9, 10**9]},
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **wrong}))
        with pytest.raises(CheckpointError, match="config.json"):
            LeRobotPolicy.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "pi0"}')
    with pytest.raises(CheckpointError, match="holds no policy of LeRobot"):
        LeRobotPolicy.from_pretrained(tmp_path)
