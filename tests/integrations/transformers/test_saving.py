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


def test_a_saved_policy_is_replaced(policy: PI0Policy, model: Any, tmp_path: Path) -> None:
    """As a run does that was killed after saving, and is resumed."""
    policy.save_pretrained(tmp_path / "policy")
    PI0Policy(model, action_dim=2).save_pretrained(tmp_path / "policy")
    assert PI0Policy.from_pretrained(tmp_path / "policy").chunk_shape == (4, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_save_that_fails_leaves_the_old_policy(
    policy: PI0Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.save_pretrained(tmp_path / "policy")
    before = {path.name: path.read_bytes() for path in (tmp_path / "policy").iterdir()}

    def fail(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError("no space left")

    monkeypatch.setattr(policy.model, "save_pretrained", fail)
    with pytest.raises(OSError, match="no space left"):
        policy.save_pretrained(tmp_path / "policy")
    assert {path.name: path.read_bytes() for path in (tmp_path / "policy").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_missing_and_foreign_weights_are_refused(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    whole = load_file(tmp_path / WEIGHTS)
    name = "action_out_proj.bias"
    part = {key: value for key, value in whole.items() if key != name}
    save_file(part, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"missing_keys.*{name}"):
        PI0Policy.from_pretrained(tmp_path)
    save_file({**whole, "other": torch.ones(1)}, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="unexpected_keys.*other"):
        PI0Policy.from_pretrained(tmp_path)


@pytest.mark.parametrize("place", range(12))
def test_a_flipped_bit_of_a_weight_is_noticed(
    policy: PI0Policy, tmp_path: Path, place: int
) -> None:
    policy.save_pretrained(tmp_path)
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    data[-1 - place * len(data) // 13] ^= 1 << place % 8
    (tmp_path / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is not what was saved"):
        PI0Policy.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["num_inference_steps", "chunk_size", "max_action_dim"])
def test_an_entry_that_left_the_configuration_is_noticed(
    policy: PI0Policy, tmp_path: Path, name: str
) -> None:
    policy.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop(name)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="config.json is not what was saved"):
        PI0Policy.from_pretrained(tmp_path)


def test_weights_beside_the_saved_ones_are_noticed(policy: PI0Policy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("a card of the hub")
    PI0Policy.from_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="adapter_config.json is not what was saved"):
        PI0Policy.from_pretrained(tmp_path)


@pytest.mark.parametrize("size", ["num_inference_steps", "chunk_size", "num_hidden_layers"])
def test_a_model_of_a_billion_steps_is_refused_before_it_is_made(
    model: Any, tmp_path: Path, size: str
) -> None:
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    place = config["dit_config"] if size == "num_hidden_layers" else config
    place[size] = 10**9
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"expected {size} of at most"):
        PI0Policy.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_type(
    policy: PI0Policy, observations: TensorDict, tmp_path: Path, dtype: torch.dtype
) -> None:
    noise = policy.draw_noise([3])
    expected = policy.decode_from(observations, noise)
    policy.model.to(dtype)
    policy.save_pretrained(tmp_path)
    loaded = PI0Policy.from_pretrained(tmp_path)
    assert loaded.model.dtype == dtype
    assert loaded.fingerprint() == policy.fingerprint()
    for own in (loaded, loaded.to(dtype)):
        chunk = own.decode_from(observations, noise)
        assert chunk.dtype == torch.float32
        assert 0 < (chunk - expected).abs().mean() < 0.1 * expected.abs().mean()
        given = own.read_observations(observations, noise)
        assert own.cloning_loss(chunk, *given).isfinite()


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


def test_impossible_configurations_are_refused(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
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
