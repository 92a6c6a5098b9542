"""Saved policies: LeRobot's own folder, and ``modereg_policy.json`` beside its files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modereg import files
from modereg.errors import CheckpointError, ConfigurationError
from modereg.keys import from_json
from modereg_integrations.folders import check_sizes, is_key, open_folder, sealed_folder
from modereg_integrations.lerobot.library import library

__all__ = ["configuration", "read_folder", "write_folder"]

_WEIGHTS = "model.safetensors"
_PROCESSORS = ("policy_preprocessor", "policy_postprocessor")
_DAMAGES = (KeyError, OSError, RuntimeError, TypeError, ValueError, SafetensorError)
_INCIDENTAL = {
    *("compile_mode", "compile_model", "device", "gradient_checkpointing", "license"),
    *("load_vlm_weights", "pretrained_backbone_weights", "pretrained_path", "private"),
    *("push_to_hub", "repo_id", "state_file", "tags", "tokenizer_name", "use_amp"),
    "vlm_model_name",
}
"""Entries that say where weights come from and go to, and how they are trained."""

_KINDS = {
    "entries": lambda value: isinstance(value, dict) and all(map(is_key, value.values())),
    "task": lambda value: value is None or isinstance(value, str),
    **dict.fromkeys(("noise_key", "chunk_key"), is_key),
}


def configuration(config: Any, pipelines: tuple[Any, Any]) -> dict[str, Any]:
    """Return what besides the weights decides what is decoded, wherever it was saved."""
    encoded = library("configs.policies").draccus.encode(config)
    return {
        "lerobot": _essential(encoded),
        "processors": [_essential(pipeline.get_config()) for pipeline in pipelines],
        "statistics": _digest(pipelines),
    }


def _essential(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {str(name): part for name, part in value.items() if name not in _INCIDENTAL}
        return {
            name: _essential(part)
            for name, part in kept.items()
            if not name.startswith(("optimizer_", "scheduler_"))
        }
    return [_essential(part) for part in value] if isinstance(value, (list, tuple)) else value


def _digest(pipelines: tuple[Any, ...]) -> str:
    """Digest the statistics with which pipelines normalise."""
    digest = hashlib.sha256()
    for pipeline in pipelines:
        for step in pipeline.steps:
            for name, value in sorted(step.state_dict().items()):
                digest.update(f"{type(step).__name__}|{name}|{value.tolist()}".encode())
    return digest.hexdigest()


def write_folder(
    folder: Path, policy: Any, pipelines: tuple[Any, Any], options: dict[str, Any]
) -> None:
    """Write a folder, at once or not at all; a policy that was saved there is replaced.

    Raises:
        CheckpointError: if the folder holds something else.
    """
    with sealed_folder(folder, options) as new:
        for pipeline, name in zip(pipelines, _PROCESSORS):
            pipeline.save_pretrained(new, config_filename=f"{name}.json")
        policy.save_pretrained(new)


def read_folder(folder: Path, config: dict[str, Any]) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Return policy, preprocessor and postprocessor of a folder, and the options beside them.

    Raises:
        CheckpointError: if the folder is damaged, foreign, or its weights are others.
        ConfigurationError: if ``config`` has an entry that is unknown or impossible.
    """
    factory = library("policies.factory")
    options = open_folder(folder, _KINDS)
    if options:
        options |= {name: from_json(options[name]) for name in ("noise_key", "chunk_key")}
        options["entries"] = {name: from_json(key) for name, key in options["entries"].items()}
    settings = _load_settings(folder, config)
    policy = _load_policy(settings, folder)
    device = {"device_processor": {"device": settings.device}}
    try:
        pipelines = factory.make_pre_post_processors(
            settings, pretrained_path=str(folder), preprocessor_overrides=device
        )
    except _DAMAGES as error:
        raise CheckpointError(
            f"{folder} has no usable processors ({error}); save LeRobot's preprocessor and "
            "postprocessor beside the policy"
        ) from error
    return policy, *pipelines, options


def _load_settings(folder: Path, replaced: dict[str, Any]) -> Any:
    """Read LeRobot's configuration of a policy, with entries replaced."""
    found = files.read_json(folder / "config.json")
    if not isinstance(found, dict) or "type" not in found:
        raise CheckpointError(f"{folder} holds no policy of LeRobot: its config.json has no type")
    check_sizes(folder / "config.json", found)
    policies = library("configs.policies")
    try:
        settings = policies.PreTrainedConfig.from_pretrained(folder)
    except (*_DAMAGES, policies.draccus.utils.ParsingError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is damaged: {error}") from error
    known = {field.name for field in fields(settings)}
    if unknown := sorted(set(replaced) - known):
        raise ConfigurationError(
            f"expected entries of a {type(settings).__name__}, which are {sorted(known)}, got "
            f"{unknown}"
        )
    if "pretrained_backbone_weights" in known:  # the folder's replace them
        replaced = {"pretrained_backbone_weights": None} | replaced
    try:
        return replace(settings, **replaced)
    except ValueError as error:
        raise ConfigurationError(f"LeRobot refuses {replaced}: {error}") from error


def _load_policy(settings: Any, folder: Path) -> Any:
    """Load LeRobot's policy, which may print that it has not, and check that it has."""
    policy_class = library("policies.factory").get_policy_class(settings.type)
    try:
        with redirect_stdout(io.StringIO()):
            policy = policy_class.from_pretrained(str(folder), config=settings)
        wrong = list(_differences(policy.state_dict(), folder / _WEIGHTS))
    except _DAMAGES as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from error
    if wrong:
        raise CheckpointError(
            f"the weights in {folder} are not those of its configuration: {', '.join(wrong[:4])}"
            f"{' and others' if len(wrong) > 4 else ''}"
        )
    return policy


def _differences(state: Mapping[str, Tensor], path: Path) -> Iterator[str]:
    """Yield what differs between loaded weights and a file, which names tied ones once."""
    loaded = set()
    with safe_open(path, framework="pt") as file:
        for name in sorted(file.keys()):
            own = name if name in state else f"model.{name}"
            if own not in state:
                yield f"{name} is unknown"
            elif not torch.equal(state[own].cpu(), file.get_tensor(name).to(state[own].dtype)):
                yield f"{name} was not loaded"
            else:
                loaded.add(state[own].data_ptr())
    for name, value in state.items():
        if value.data_ptr() not in loaded:
            yield f"{name} is missing"
