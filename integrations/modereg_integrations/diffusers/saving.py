"""Saved policies, in the layout of diffusers' pipelines.

``model_index.json`` names the parts, ``policy.json`` holds the policy's own options and a digest of
everything, and each part has a folder: ``denoiser/`` (``config.json`` and safetensors) and
``scheduler/`` as diffusers itself reads them, and ``normalizer/``. A folder is data: classes come
from diffusers, from :func:`register_denoiser` or from the caller, a module path in a folder is
never imported, and sizes in it are bounded before anything is made of them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isinf
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from modereg import files, storage
from modereg.errors import CheckpointError
from modereg.keys import from_json
from modereg_integrations.diffusers.denoiser import MLPDenoiser
from modereg_integrations.diffusers.normalizer import Normalizer

__all__ = ["Parts", "load_parts", "part_options", "register_denoiser", "save_parts"]

DenoiserClass = TypeVar("DenoiserClass", bound=type[nn.Module])
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_FORMAT = 2
_LARGEST, _MOST_STEPS, _MOST_LEVELS = 1_000_000, 1_000, 100_000
_REGISTRY: dict[tuple[str, str], type[nn.Module]] = {
    (MLPDenoiser.__module__, MLPDenoiser.__qualname__): MLPDenoiser
}


@dataclass(frozen=True)
class Parts:
    """What a policy is made of: modules, a scheduler, and the other arguments of its class."""

    denoiser: nn.Module
    scheduler: Any
    normalizer: Normalizer | None
    options: dict[str, Any]

    def modules(self) -> nn.ModuleDict:
        """Return the parts that have weights, by name."""
        named = {"denoiser": self.denoiser, "normalizer": self.normalizer}
        return nn.ModuleDict({name: part for name, part in named.items() if part is not None})


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


def part_options(parts: Parts) -> dict[str, Any]:
    """Return every option of the policy, the denoiser, the scheduler and the normalizer."""
    configs = [getattr(part, "config", {}) for part in (parts.denoiser, parts.scheduler)]
    denoiser, scheduler = (
        {key: value for key, value in config.items() if not key.startswith("_")}
        for config in configs
    )
    return {
        "policy": parts.options,
        "denoiser": [type(parts.denoiser).__name__, denoiser],
        "scheduler": [type(parts.scheduler).__name__, scheduler],
        "normalizer": parts.normalizer and parts.normalizer.options(),
    }


def save_parts(
    parts: Parts, observation_shapes: Sequence[Sequence[int] | None], folder: Path
) -> None:
    """Write a policy's folder, at once or not at all; a saved policy there is replaced.

    Raises:
        CheckpointError: if the folder exists and is neither empty nor a saved policy.
    """
    is_saved = (folder / "model_index.json").exists()
    if folder.is_dir() and any(folder.iterdir()) and not is_saved:
        raise CheckpointError(
            f"{folder} exists and is no saved policy, so it is not overwritten; save elsewhere"
        )
    shapes = [None if shape is None else list(shape) for shape in observation_shapes]
    options = {"format": _FORMAT, **parts.options, "observation_shapes": shapes}
    with files.replace_folder(folder) as new:
        _write(parts, options, new)


def _write(parts: Parts, options: dict[str, Any], folder: Path) -> None:
    index: dict[str, Any] = {
        "_class_name": "DiffusersPolicy",
        "_diffusers_version": diffusers.__version__,
        "denoiser": list(_path_of(type(parts.denoiser))),
        "scheduler": list(_path_of(type(parts.scheduler))),
    }
    if isinstance(parts.denoiser, ConfigMixin):
        files.write_atomic(folder / "denoiser" / "config.json", parts.denoiser.to_json_string())
    files.write_atomic(
        folder / "scheduler" / "scheduler_config.json", parts.scheduler.to_json_string()
    )
    if parts.normalizer is not None:
        index["normalizer"] = ["modereg_integrations.diffusers", "Normalizer"]
        files.write_json(folder / "normalizer" / "config.json", parts.normalizer.options())
    for name, module in parts.modules().items():
        # safetensors refuses tensors that share storage.
        state = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
        files.write_atomic(folder / name / _WEIGHTS, save(state, metadata={"format": "pt"}))
    files.write_json(folder / "model_index.json", index)
    files.write_json(folder / "policy.json", options)
    content = _read(folder)
    files.write_json(folder / "policy.json", options | {"digest": content.digest()})


@dataclass(frozen=True)
class _Content:
    """What a folder holds, read but not believed: JSON by the part's name, and tensors."""

    folder: Path
    index: dict[str, Any]
    options: dict[str, Any]
    configs: dict[str, dict[str, Any]]
    tensors: dict[str, dict[str, Tensor]]

    def digest(self) -> str:
        """Return a digest of every option and every weight."""
        written = {"index": self.index, "options": self.options, "configs": self.configs}
        state = {f"{n}.{k}": v for n, part in self.tensors.items() for k, v in part.items()}
        text = json.dumps(written, sort_keys=True) + storage.state_fingerprint(state)
        return hashlib.sha256(text.encode()).hexdigest()


def _read(folder: Path) -> _Content:
    index = _read_json(folder / "model_index.json")
    if index.get("_class_name") != "DiffusersPolicy":
        raise CheckpointError(
            f"{folder} holds a {index.get('_class_name')}, not a saved DiffusersPolicy; load it "
            "with its own library and give its parts to DiffusersPolicy(denoiser, scheduler, ...)"
        )
    options = _read_json(folder / "policy.json")
    if options.get("format") != _FORMAT:
        raise CheckpointError(
            f"{folder}/policy.json is of format {options.get('format')!r}, not {_FORMAT}; save the "
            "policy again with this version of modereg, or update it"
        )
    paths = {
        "denoiser": folder / "denoiser" / "config.json",
        "scheduler": folder / "scheduler" / "scheduler_config.json",
        "normalizer": folder / "normalizer" / "config.json",
    }
    needed = {"scheduler", *(["normalizer"] if "normalizer" in index else [])}
    configs = {n: _read_json(p) for n, p in paths.items() if n in needed or p.exists()}
    names = [name for name in ("denoiser", "normalizer") if name == "denoiser" or name in index]
    return _Content(folder, index, options, configs, {n: _tensors(folder / n) for n in names})


def load_parts(
    folder: Path,
    *,
    denoiser: nn.Module | type[nn.Module] | None = None,
    scheduler: Any = None,
) -> Parts:
    """Load what :func:`save_parts` wrote; ``options`` has ``observation_shapes`` too.

    Raises:
        CheckpointError: if the folder is damaged, foreign, or names a class that is not trusted.
    """
    content = _read(folder)
    digest = content.options.pop("digest", None)
    if digest not in (None, content.digest()):
        raise CheckpointError(
            f"{folder} is damaged: its weights or options are not those that were saved; copy it "
            "again, or remove 'digest' from policy.json if they were changed on purpose"
        )
    try:
        options = _checked_options(content)
        _check_sizes(content)
        return Parts(
            _make_denoiser(content, denoiser),
            _make_scheduler(content) if scheduler is None else scheduler,
            _make_normalizer(content) if "normalizer" in content.index else None,
            options,
        )
    except (KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder} is damaged: {error!r}") from error


def _read_json(path: Path) -> dict[str, Any]:
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: expected an object, got {content!r:.80}")
    return content


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Read safetensors, in shards where there is an index, as diffusers does; nothing else."""
    index, whole = folder / f"{_WEIGHTS}.index.json", folder / _WEIGHTS
    if not index.exists() and not whole.exists():
        raise CheckpointError(
            f"{folder} has no {_WEIGHTS}; pickled weights are not read, convert them to safetensors"
        )
    places = _read_json(index).get("weight_map") if index.exists() else None
    if index.exists() and not _is_map(places):
        raise CheckpointError(f"{index} is damaged: expected names of files beside it")
    names = sorted(set(places.values())) if places is not None else [_WEIGHTS]
    try:
        found = {k: v for name in names for k, v in load_file(str(folder / name)).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}/{_WEIGHTS} is damaged: {error}") from error
    if places is not None and set(found) != set(places):
        raise CheckpointError(f"{folder} is damaged: its shards do not hold what {index.name} says")
    return found


def _is_map(places: Any) -> bool:
    return isinstance(places, dict) and all(
        isinstance(name, str) and Path(name).name == name for name in places.values()
    )


def _is_number(value: Any, largest: int, smallest: int = 1) -> bool:
    return type(value) is int and smallest <= value <= largest


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > 16:
        return False
    return all(_is_number(v, _LARGEST) for v in value) and torch.Size(value).numel() <= 10**8


def _is_key(value: Any) -> bool:
    parts = value if isinstance(value, list) and value else [value]
    return all(isinstance(part, str) for part in parts)


def _are(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _are_levels(value: Any) -> bool:
    is_list = isinstance(value, list) and 1 <= len(value) <= _MOST_STEPS
    return value is None or (is_list and all(type(one) in (int, float) for one in value))


_CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "chunk_shape": ("[actions, action dimensions]", lambda v: _is_shape(v) and len(v) == 2),
    "observation_keys": ("a list of keys", _are(_is_key)),
    "observation_shapes": ("a list of shapes", _are(lambda v: v is None or _is_shape(v))),
    "num_inference_steps": (f"1 to {_MOST_STEPS}", lambda v: _is_number(v, _MOST_STEPS)),
    "timesteps": (f"null or up to {_MOST_STEPS} numbers", _are_levels),
    "sigmas": (f"null or up to {_MOST_STEPS} numbers", _are_levels),
    "observation_steps": (f"1 to {_MOST_STEPS}", lambda v: _is_number(v, _MOST_STEPS)),
    "global_cond": ("true or false", lambda v: isinstance(v, bool)),
    "noise_key": ("a key", _is_key),
    "chunk_key": ("a key", _is_key),
}


def _checked_options(content: _Content) -> dict[str, Any]:
    """Return the arguments of the class, each there and of its type."""
    path, options = content.folder / "policy.json", dict(content.options)
    options.pop("format")
    if set(options) != set(_CHECKS):
        odd = sorted(set(options) ^ set(_CHECKS))
        raise CheckpointError(f"{path} is damaged: expected {sorted(_CHECKS)}, differs in {odd}")
    for name, (what, check) in _CHECKS.items():
        if not check(options[name]):
            got = repr(options[name])[:80]
            raise CheckpointError(f"{path} is damaged: expected {name} to be {what}, got {got}")
    for name in ("noise_key", "chunk_key"):
        options[name] = from_json(options[name])
    options["observation_keys"] = [from_json(key) for key in options["observation_keys"]]
    return options


def _check_sizes(content: _Content) -> None:
    """Check that no number in a configuration asks for more than any policy needs."""
    levels = content.configs["scheduler"].get("num_train_timesteps", 1)
    if not _is_number(levels, _MOST_LEVELS):
        raise CheckpointError(
            f"{content.folder} is damaged: expected num_train_timesteps from 1 to {_MOST_LEVELS}, "
            f"got {levels!r:.80}"
        )
    pending: list[Any] = list(content.configs.values())
    while pending:
        value = pending.pop()
        if isinstance(value, list | dict):
            pending += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int | float) and not (abs(value) <= _LARGEST or isinf(value)):
            raise CheckpointError(
                f"{content.folder} is damaged: expected numbers up to {_LARGEST}, got {value!r:.80}"
            )


def _load_into(module: nn.Module, content: _Content, name: str) -> nn.Module:
    try:
        module.load_state_dict(content.tensors[name], assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights in {content.folder / name} are of another module: "
            f"{' '.join(str(error).split())}"
        ) from error
    return module


def _make_denoiser(content: _Content, given: nn.Module | type[nn.Module] | None) -> nn.Module:
    if isinstance(given, nn.Module):
        return _load_into(given, content, "denoiser")
    path = content.index.get("denoiser")
    trusted: Any = _trusted_denoiser(path)
    cls: Any = trusted if given is None else given
    if cls is None:
        raise CheckpointError(
            f"{content.folder} names the denoiser {path}, which is not imported on a file's word; "
            "pass denoiser=TheClass or a module, or call register_denoiser(TheClass) before"
        )
    if not hasattr(cls, "from_config"):
        raise CheckpointError(
            f"{cls.__name__} has no saved configuration to be made from; pass denoiser=a module"
        )
    config = content.configs["denoiser"]
    if cls is MLPDenoiser or cls.__module__.startswith("diffusers."):
        with torch.device("meta"):  # sizes that are not those of the weights allocate nothing
            _load_into(cls.from_config(config), content, "denoiser")
    return _load_into(cls.from_config(config), content, "denoiser")


def _pair(path: Any) -> tuple[str, str]:
    if not isinstance(path, list) or len(path) != 2 or not all(isinstance(p, str) for p in path):
        raise CheckpointError(f"model_index.json is damaged: expected [library, name], got {path}")
    return path[0], path[1]


def _trusted_denoiser(path: Any) -> type[nn.Module] | None:
    library, name = _pair(path)
    if library == "diffusers":
        return _from_diffusers(name, ModelMixin)
    return _REGISTRY.get((library, name))


def _from_diffusers(name: str, base: type) -> Any:
    """A public class of diffusers by its name, if it is one of those asked for."""
    found = getattr(diffusers, name, None)
    return found if inspect.isclass(found) and issubclass(found, base) else None


def _make_scheduler(content: _Content) -> Any:
    library, name = _pair(content.index.get("scheduler"))
    cls = _from_diffusers(name, SchedulerMixin) if library == "diffusers" else None
    if cls is None:
        raise CheckpointError(
            f"{content.folder} names the scheduler {[library, name]}, which is none of diffusers'; "
            "pass scheduler=..."
        )
    return cls.from_config(content.configs["scheduler"])


def _make_normalizer(content: _Content) -> Normalizer:
    config: Mapping[str, Any] = content.configs["normalizer"]
    shapes, dims = config["observation_shapes"], config["action_dim"]
    if not (_are(_is_shape)(shapes) and _is_number(dims, _LARGEST)):
        raise CheckpointError(
            f"{content.folder}/normalizer/config.json is damaged: expected shapes and a number of "
            f"action dimensions, got {shapes!r:.80} and {dims!r:.80}"
        )
    normalizer = Normalizer(**config)
    _load_into(normalizer, content, "normalizer")
    return normalizer
