"""Saved policies: a model as transformers saves it, and ``modereg_policy.json`` beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from modereg import storage
from modereg.errors import CheckpointError
from modereg_integrations.transformers.library import library
from modereg_integrations.transformers.statistics import Statistics

if TYPE_CHECKING:
    from modereg_integrations.transformers.policy import PI0Policy

__all__ = ["OPTIONS", "load_policy", "model_options", "save_policy"]

OPTIONS = "modereg_policy.json"
"""File of the policy's own options."""

_FORMAT = 1
_DAMAGES = (
    *(KeyError, OSError, RuntimeError, TypeError, ValueError),
    *(SafetensorError, StrictDataclassError),
)
_INCIDENTAL = {"_name_or_path", "architectures", "dtype", "transformers_version"}


def model_options(config: Any) -> Any:
    """Return a model's configuration without what depends on where and when it was saved."""
    if not isinstance(config, dict):
        return config
    return {str(key): model_options(part) for key, part in config.items() if key not in _INCIDENTAL}


def save_policy(policy: PI0Policy, folder: Path) -> None:
    """Write a policy's folder; its options come first, so that a part is never taken for a whole.

    Raises:
        CheckpointError: if the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not empty, so it is left; save elsewhere")
    statistics = policy.statistics
    *images, instruction, state = policy.observation_keys
    options = {
        "format": _FORMAT,
        "action_dim": policy.chunk_shape[1],
        "image_keys": images,
        "instruction_key": instruction,
        "state_key": state,
        "num_inference_steps": policy.num_inference_steps,
        "noise_key": policy.noise_key,
        "chunk_key": policy.chunk_key,
        "statistics": None if statistics is None else statistics.options(),
    }
    storage.write_json(folder / OPTIONS, options)
    policy.model.save_pretrained(folder)


def load_policy(folder: Path, options: dict[str, Any]) -> PI0Policy:
    """Load a folder; see :meth:`PI0Policy.from_pretrained`.

    Raises:
        CheckpointError: if the folder is damaged, foreign, or lacks weights of the model.
    """
    from modereg_integrations.transformers.policy import PI0Policy

    saved = _read_options(folder) if (folder / OPTIONS).exists() else {}
    return PI0Policy(_load_model(folder), **saved | options).eval()


def _read_options(folder: Path) -> dict[str, Any]:
    options = storage.read_json(folder / OPTIONS)
    if not isinstance(options, dict) or options.pop("format", None) != _FORMAT:
        raise CheckpointError(f"{folder / OPTIONS} is not of format {_FORMAT}; update modereg")
    try:
        options["image_keys"] = [_as_key(key) for key in options["image_keys"]]
        for name in ("instruction_key", "state_key", "noise_key", "chunk_key"):
            options[name] = _as_key(options[name])
        if options["statistics"] is not None:
            options["statistics"] = Statistics(**options["statistics"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / OPTIONS} is damaged: {error!r}") from error
    return options


def _as_key(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key


def _load_model(folder: Path) -> Any:
    config = storage.read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "pi0":
        raise CheckpointError(
            f"{folder} holds a model of type {kind!r}, where 'pi0' is expected; load it with its "
            "own library and give its decode to as_generative_policy"
        )
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
