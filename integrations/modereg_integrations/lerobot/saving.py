"""Saved policies: LeRobot's own folder, and ``modereg_policy.json`` beside its files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modereg import storage
from modereg.errors import CheckpointError, ConfigurationError
from modereg_integrations.lerobot.library import library

if TYPE_CHECKING:
    from modereg_integrations.lerobot.policy import LeRobotPolicy

__all__ = ["OPTIONS", "configuration", "load_policy", "save_policy"]

OPTIONS = "modereg_policy.json"
"""File of the options of :class:`~modereg_integrations.lerobot.LeRobotPolicy`."""

_FORMAT = 1
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


def configuration(policy: LeRobotPolicy) -> dict[str, Any]:
    """Return what besides the weights decides what is decoded, wherever it was saved."""
    encoded = library("configs.policies").draccus.encode(policy.config)
    pipelines: tuple[Any, Any] = (policy.preprocessor, policy.postprocessor)
    return {
        "lerobot": _essential(encoded),
        "task": policy.task,
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


def save_policy(policy: LeRobotPolicy, folder: Path) -> None:
    """Write a policy's folder; its options come first, so that a part is never taken for a whole.

    Raises:
        CheckpointError: if the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not empty, so it is left; save elsewhere")
    options = {
        "format": _FORMAT,
        "entries": policy.entries,
        "task": policy.task,
        "noise_key": policy.noise_key,
        "chunk_key": policy.chunk_key,
    }
    storage.write_json(folder / OPTIONS, options)
    pipelines: tuple[Any, Any] = (policy.preprocessor, policy.postprocessor)
    for pipeline, name in zip(pipelines, _PROCESSORS):
        pipeline.save_pretrained(folder, config_filename=f"{name}.json")
    policy.policy.save_pretrained(folder)


def load_policy(folder: Path, config: dict[str, Any], options: dict[str, Any]) -> LeRobotPolicy:
    """Load a folder; see :meth:`LeRobotPolicy.from_pretrained`.

    Raises:
        CheckpointError: if the folder is damaged, foreign, or its weights are others.
        ConfigurationError: if ``config`` has an entry that is unknown or impossible.
    """
    from modereg_integrations.lerobot.policy import LeRobotPolicy

    factory = library("policies.factory")
    saved = _read_options(folder) if (folder / OPTIONS).exists() else {}
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
    return LeRobotPolicy(policy, *pipelines, **saved | options)


def _read_options(folder: Path) -> dict[str, Any]:
    options = storage.read_json(folder / OPTIONS)
    if not isinstance(options, dict) or options.pop("format", None) != _FORMAT:
        raise CheckpointError(f"{folder / OPTIONS} is not of format {_FORMAT}; update modereg")
    try:
        entries = {name: _as_key(key) for name, key in options["entries"].items()}
        named = {name: _as_key(options[name]) for name in ("noise_key", "chunk_key")}
        return {"entries": entries, "task": options["task"], **named}
    except (AttributeError, KeyError) as error:
        raise CheckpointError(f"{folder / OPTIONS} is damaged: {error!r}") from error


def _as_key(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key


def _load_settings(folder: Path, replaced: dict[str, Any]) -> Any:
    """Read LeRobot's configuration of a policy, with entries replaced."""
    found = storage.read_json(folder / "config.json")
    if not isinstance(found, dict) or "type" not in found:
        raise CheckpointError(f"{folder} holds no policy of LeRobot: its config.json has no type")
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
