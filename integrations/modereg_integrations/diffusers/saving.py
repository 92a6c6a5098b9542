"""Saved policies, in the layout of diffusers' pipelines.

``model_index.json`` names the parts, ``policy.json`` holds the policy's own options, and each part
has a folder: ``denoiser/`` (``config.json`` and safetensors) and ``scheduler/`` as diffusers itself
reads them, and ``normalizer/``. A folder is data: classes come from diffusers, from
:func:`register_denoiser` or from the caller, and a module path in a folder is never imported.
"""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import diffusers
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from modereg import storage
from modereg.errors import CheckpointError, StochasticSamplerError
from modereg_integrations.diffusers.denoiser import MLPDenoiser
from modereg_integrations.diffusers.normalizer import Normalizer
from modereg_integrations.diffusers.policy import DiffusersPolicy

__all__ = ["fingerprint", "load_policy", "register_denoiser", "save_policy"]

DenoiserClass = TypeVar("DenoiserClass", bound=type[nn.Module])
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_FORMAT = 1
_REGISTRY: dict[tuple[str, str], type[nn.Module]] = {
    (MLPDenoiser.__module__, MLPDenoiser.__qualname__): MLPDenoiser
}


def register_denoiser(cls: DenoiserClass) -> DenoiserClass:
    """Trust a denoiser class, so that saved policies may name it; usable as a decorator.

    Args:
        cls: a ``ModelMixin`` with ``ConfigMixin``, so that its configuration is saved too.
    """
    _REGISTRY[_path_of(cls)] = cls
    return cls


def _path_of(cls: type) -> tuple[str, str]:
    """Library and name of a class, as ``model_index.json`` has them."""
    if getattr(diffusers, cls.__name__, None) is cls:
        return "diffusers", cls.__name__
    return cls.__module__, cls.__qualname__


def _options(policy: DiffusersPolicy) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "chunk_shape": list(policy.chunk_shape),
        "observation_keys": policy.observation_keys,
        "num_inference_steps": policy.num_inference_steps,
        "observation_steps": policy.observation_steps,
        "noise_key": policy.noise_key,
        "chunk_key": policy.chunk_key,
    }


def _normalizer_options(normalizer: Normalizer) -> dict[str, Any]:
    return {
        "observation_shapes": [list(shape) for shape in normalizer.observation_shapes],
        "action_dim": normalizer.action_dim,
        "mode": normalizer.mode,
    }


def _denoiser_options(denoiser: nn.Module) -> dict[str, Any]:
    config = dict(getattr(denoiser, "config", {}))
    return {key: value for key, value in config.items() if not key.startswith("_")}


def fingerprint(policy: DiffusersPolicy) -> str:
    """Hash parameters, buffers and every option of a policy (sha256, hexadecimal).

    It is the same before saving and after loading, on any device.
    """
    return policy.fingerprint()


def configuration(policy: DiffusersPolicy) -> dict[str, Any]:
    """Return the options of policy, denoiser, scheduler and normalizer."""
    scheduler = {k: v for k, v in policy.scheduler.config.items() if not k.startswith("_")}
    return {
        "policy": _options(policy),
        "denoiser": [type(policy.denoiser).__name__, _denoiser_options(policy.denoiser)],
        "scheduler": [type(policy.scheduler).__name__, scheduler],
        "normalizer": policy.normalizer and _normalizer_options(policy.normalizer),
    }


def save_policy(policy: DiffusersPolicy, folder: Path) -> None:
    """Write a policy's folder, at once or not at all; a saved policy there is replaced.

    Raises:
        CheckpointError: if the folder exists and is neither empty nor a saved policy.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "model_index.json").exists():
        raise CheckpointError(
            f"{folder} exists and is no saved policy, so it is not overwritten; save elsewhere"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write_parts(policy, temporary)
        temporary.chmod(0o755)
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, folder: Path) -> None:
    """Put a complete folder in its place; the old one is whole until the new one is there."""
    old = temporary.with_name(temporary.name + ".old")
    if folder.exists():
        os.rename(folder, old)
    os.rename(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_parts(policy: DiffusersPolicy, folder: Path) -> None:
    index: dict[str, Any] = {
        "_class_name": "DiffusersPolicy",
        "_diffusers_version": diffusers.__version__,
        "denoiser": list(_path_of(type(policy.denoiser))),
        "scheduler": list(_path_of(type(policy.scheduler))),
    }
    if isinstance(policy.denoiser, ConfigMixin):
        storage.write_atomic(folder / "denoiser" / "config.json", policy.denoiser.to_json_string())
    _save_tensors(policy.denoiser, folder / "denoiser")
    storage.write_atomic(
        folder / "scheduler" / "scheduler_config.json", policy.scheduler.to_json_string()
    )
    if policy.normalizer is not None:
        index["normalizer"] = ["modereg_integrations.diffusers", "Normalizer"]
        options = _normalizer_options(policy.normalizer)
        storage.write_json(folder / "normalizer" / "config.json", options)
        _save_tensors(policy.normalizer, folder / "normalizer")
    options = {**_options(policy), "weights": storage.fingerprint(policy)}
    storage.write_json(folder / "policy.json", options)
    storage.write_json(folder / "model_index.json", index)


def _save_tensors(module: nn.Module, folder: Path) -> None:
    # safetensors refuses tensors that share storage.
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
    storage.write_atomic(folder / _WEIGHTS, save(tensors, metadata={"format": "pt"}))


def load_policy(
    folder: Path,
    *,
    denoiser: nn.Module | type[nn.Module] | None = None,
    scheduler: Any = None,
) -> DiffusersPolicy:
    """Load what :func:`save_policy` wrote; see :meth:`DiffusersPolicy.from_pretrained`.

    Raises:
        CheckpointError: if the folder is damaged, foreign, or names a class that is not trusted.
    """
    index = _read_json(folder / "model_index.json")
    if index.get("_class_name") != "DiffusersPolicy":
        raise CheckpointError(
            f"{folder} holds a {index.get('_class_name')}, not a saved DiffusersPolicy; load it "
            "with its own library and give its parts to DiffusersPolicy(denoiser, scheduler, ...)"
        )
    options = _read_json(folder / "policy.json")
    if options.pop("format", None) != _FORMAT:
        raise CheckpointError(f"{folder}/policy.json is not of format {_FORMAT}; update modereg")
    digest = options.pop("weights", None)
    try:
        policy = _make_policy(folder, index, options, denoiser, scheduler)
    except StochasticSamplerError:
        raise
    except (KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} is damaged: {error!r}") from error
    if digest not in (None, storage.fingerprint(policy)):
        raise CheckpointError(
            f"{folder} is damaged: its weights are not those that were saved; copy it again, or "
            "remove 'weights' from policy.json if they were changed on purpose"
        )
    return policy.eval()


def _make_policy(
    folder: Path,
    index: dict[str, Any],
    options: dict[str, Any],
    denoiser: nn.Module | type[nn.Module] | None,
    scheduler: Any,
) -> DiffusersPolicy:
    for key in ("noise_key", "chunk_key"):
        options[key] = _as_key(options[key])
    options["observation_keys"] = [_as_key(key) for key in options["observation_keys"]]
    return DiffusersPolicy(
        _load_denoiser(folder, index["denoiser"], denoiser),
        _load_scheduler(folder, index["scheduler"]) if scheduler is None else scheduler,
        normalizer=_load_normalizer(folder) if "normalizer" in index else None,
        **options,
    )


def _as_key(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key


def _read_json(path: Path) -> dict[str, Any]:
    content = storage.read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: expected an object, got {content!r}")
    return content


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read safetensors, whole or in diffusers' shards; nothing else is ever opened."""
    paths = [folder / _WEIGHTS]
    if not paths[0].exists():
        paths = sorted(folder.glob("diffusion_pytorch_model-*-of-*.safetensors"))
    if not paths:
        raise CheckpointError(
            f"{folder} has no {_WEIGHTS}; pickled weights are not read, convert them to safetensors"
        )
    try:
        return {name: value for path in paths for name, value in load_file(str(path)).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}/{_WEIGHTS} is damaged: {error}") from error


def _load_into(module: nn.Module, folder: Path) -> nn.Module:
    try:
        module.load_state_dict(_read_tensors(folder), assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights in {folder} are of another module: {' '.join(str(error).split())}"
        ) from error
    return module


def _load_denoiser(folder: Path, path: Any, given: nn.Module | type[nn.Module] | None) -> nn.Module:
    if isinstance(given, nn.Module):
        return _load_into(given, folder / "denoiser")
    cls: Any = _trusted_denoiser(path) if given is None else given
    if cls is None:
        raise CheckpointError(
            f"{folder} names the denoiser {path}, which is not imported on a file's word; pass "
            "denoiser=TheClass or a module, or call register_denoiser(TheClass) before"
        )
    if not hasattr(cls, "from_config"):
        raise CheckpointError(
            f"{cls.__name__} has no saved configuration to be made from; pass denoiser=a module"
        )
    config = _read_json(folder / "denoiser" / "config.json")
    return _load_into(cls.from_config(config), folder / "denoiser")


def _trusted_denoiser(path: Any) -> type[nn.Module] | None:
    library, name = path
    if library == "diffusers":
        return _from_diffusers(name, ModelMixin)
    return _REGISTRY.get((library, name))


def _from_diffusers(name: str, base: type) -> Any:
    """A public class of diffusers by its name, if it is one of those asked for."""
    found = getattr(diffusers, name, None)
    return found if inspect.isclass(found) and issubclass(found, base) else None


def _load_scheduler(folder: Path, path: Any) -> Any:
    library, name = path
    cls = _from_diffusers(name, SchedulerMixin) if library == "diffusers" else None
    if cls is None:
        raise CheckpointError(
            f"{folder} names the scheduler {path}, which is none of diffusers'; pass scheduler=..."
        )
    return cls.from_config(_read_json(folder / "scheduler" / "scheduler_config.json"))


def _load_normalizer(folder: Path) -> Normalizer:
    config = _read_json(folder / "normalizer" / "config.json")
    normalizer = Normalizer(**config)
    _load_into(normalizer, folder / "normalizer")
    return normalizer
