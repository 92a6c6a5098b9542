"""Saved policies: a model as transformers saves it, and ``modereg_policy.json`` beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from modereg import files
from modereg.errors import CheckpointError
from modereg.keys import from_json
from modereg_integrations.folders import (
    LARGEST,
    check_sizes,
    is_key,
    open_folder,
    sealed_folder,
)
from modereg_integrations.transformers.library import library
from modereg_integrations.transformers.statistics import Statistics

__all__ = ["model_options", "read_folder", "write_folder"]

_DAMAGES = (
    *(KeyError, OSError, RuntimeError, TypeError, ValueError),
    *(SafetensorError, StrictDataclassError),
)
_INCIDENTAL = {"_name_or_path", "architectures", "dtype", "transformers_version"}


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= LARGEST


_KEYS = ("instruction_key", "state_key", "noise_key", "chunk_key")
_KINDS = {
    "action_dim": _is_count,
    "image_keys": lambda value: isinstance(value, list) and all(map(is_key, value)),
    **dict.fromkeys(_KEYS, is_key),
    "num_inference_steps": _is_count,
    "state_dim": lambda value: value is None or _is_count(value),
    "statistics": lambda value: value is None or isinstance(value, dict),
}


def model_options(config: Any) -> Any:
    """Return a model's configuration without what depends on where and when it was saved."""
    if not isinstance(config, dict):
        return config
    return {str(key): model_options(part) for key, part in config.items() if key not in _INCIDENTAL}


def write_folder(folder: Path, model: Any, options: dict[str, Any]) -> None:
    """Write a folder, at once or not at all; a policy that was saved there is replaced.

    Raises:
        CheckpointError: if the folder holds something else.
    """
    statistics = options["statistics"]
    saved = options | {"statistics": None if statistics is None else statistics.options()}
    with sealed_folder(folder, saved) as new:
        model.save_pretrained(new)


def read_folder(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return the model of a folder, and the options that were saved beside it, if any.

    Raises:
        CheckpointError: if the folder is damaged, foreign, or lacks weights of the model.
    """
    options = open_folder(folder, _KINDS)
    if options:
        options |= {name: from_json(options[name]) for name in _KEYS}
        options["image_keys"] = [from_json(key) for key in options["image_keys"]]
        options["statistics"] = _read_statistics(folder, options["statistics"])
    return _load_model(folder), options


def _read_statistics(folder: Path, saved: dict[str, Any] | None) -> Statistics | None:
    try:
        return None if saved is None else Statistics(**saved)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the statistics in {folder} are damaged: {error}") from error


def _load_model(folder: Path) -> Any:
    config = files.read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "pi0":
        raise CheckpointError(
            f"{folder} holds a model of type {kind!r}, where 'pi0' is expected; load it with its "
            "own library and give its decode to as_generative_policy"
        )
    check_sizes(folder / "config.json", config)
    cls = library().PI0ForConditionalGeneration
    try:
        model, report = cls.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except _DAMAGES as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from error
    wrong = [f"{kind}: {sorted(map(str, names))}" for kind, names in report.items() if names]
    if wrong:
        raise CheckpointError(
            f"the weights in {folder} are not those of its configuration ({'; '.join(wrong)})"
        )
    return model
