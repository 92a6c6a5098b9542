"""Saved PI0 policies: the same after loading, and nothing half is taken for whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensordict import TensorDict

from modereg.errors import CheckpointError
from modereg.plugins import policy_loader, resolve_policy
from modereg_integrations.transformers import PI0Policy, Statistics

WEIGHTS = "model.safetensors"


@pytest.fixture
def policy(model: Any) -> PI0Policy:
    statistics = Statistics(
        state_mean=[0.1, 0.2, 0.3, 0.4],
        state_std=[1.0, 2.0, 3.0, 4.0],
        actions_mean=[1.0, 2.0, 3.0],
        actions_std=[0.1, 0.2, 0.3],
    )
    return PI0Policy(model, action_dim=3, num_inference_steps=2, statistics=statistics)


def test_the_same_after_loading(
    policy: PI0Policy, observations: TensorDict, tmp_path: Path
) -> None:
    policy.save_pretrained(tmp_path / "policy")
    loaded = resolve_policy(str(tmp_path / "policy"))
    assert isinstance(loaded, PI0Policy)
    assert loaded.fingerprint() == policy.fingerprint()
    assert loaded.in_keys == policy.in_keys
    assert not loaded.training
    noise = policy.draw_noise([3])
    chunk = policy.decode_from(observations, noise)
    assert torch.equal(loaded.decode_from(observations, noise), chunk)


def test_keys_and_options_are_kept_and_may_be_replaced(model: Any, tmp_path: Path) -> None:
    names = {"image_keys": ["a", ("b", "c")], "instruction_key": ("d", "e"), "state_key": "f"}
    policy = PI0Policy(model, **names, noise_key=("x", "w"), chunk_key="y")
    policy.save_pretrained(tmp_path / "policy")
    loaded = PI0Policy.from_pretrained(tmp_path / "policy", num_inference_steps=9, action_dim=2)
    assert loaded.observation_keys == ["a", ("b", "c"), ("d", "e"), "f"]
    assert (loaded.noise_key, loaded.chunk_key) == (("x", "w"), "y")
    assert (loaded.num_inference_steps, loaded.chunk_shape) == (9, (4, 2))


def test_a_folder_of_transformers_itself(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loader = policy_loader("transformers")
    assert loader.can_load(tmp_path)
    loaded = loader.load(tmp_path, action_dim=2)
    assert loaded.fingerprint() == PI0Policy(model, action_dim=2).fingerprint()


def test_a_full_folder_is_left_alone(policy: PI0Policy, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty"):
        policy.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_missing_and_foreign_weights_are_refused(policy: PI0Policy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    whole = load_file(tmp_path / WEIGHTS)
    name = "action_out_proj.bias"
    part = {key: value for key, value in whole.items() if key != name}
    save_file(part, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"missing_keys.*{name}"):
        PI0Policy.from_pretrained(tmp_path)
    save_file({**whole, "other": torch.ones(1)}, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="unexpected_keys.*other"):
        PI0Policy.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "modereg_policy.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_folders_are_refused(
    policy: PI0Policy, tmp_path: Path, name: str, damage: str
) -> None:
    policy.save_pretrained(tmp_path)
    path = tmp_path / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif name == "modereg_policy.json":
        path.write_text('{"format": 2}')
    else:
        path.unlink()
    with pytest.raises(CheckpointError):
        PI0Policy.from_pretrained(tmp_path)


def test_impossible_configurations_are_refused(policy: PI0Policy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "chunk_size": "many"}))
    with pytest.raises(CheckpointError, match="is damaged"):
        PI0Policy.from_pretrained(tmp_path)


def test_other_folders_are_not_claimed(tmp_path: Path) -> None:
    loader = policy_loader("transformers")
    assert not loader.can_load(tmp_path)
    for text in ("{", "[]", '{"model_type": "bert"}'):
        (tmp_path / "config.json").write_text(text)
        assert not loader.can_load(tmp_path)
    with pytest.raises(CheckpointError, match="type 'bert'"):
        loader.load(tmp_path)
    with pytest.raises(CheckpointError, match="found none"):
        PI0Policy.from_pretrained(tmp_path / "nowhere")
