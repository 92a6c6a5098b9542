"""Where episodes went, at every environment step, and a file that keeps them for pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn
from torchrl.envs import EnvBase, Transform

from modereg import keys
from modereg.errors import CheckpointError
from modereg.files import write_atomic
from modereg.rollouts import Episodes
from modereg.storage import fingerprint
from modereg.tasks import Task

__all__ = ["KeptPaths", "Paths", "Trace", "load_paths", "path_key", "save_paths"]

KEPT, NUMBERS = 400, 4_000_000
"""Episodes in a file, and numbers in their positions (16 megabytes), at most."""

TENSORS = ("positions", "lengths", "codes", "modes", "success")


@dataclass(frozen=True)
class Paths:
    """N whole episodes in feature space.

    Attributes:
        positions: ``[N, T + 1, D]`` float, in the feature's own units, from the reset on at every
            environment step; what follows an episode's end repeats its last position.
        lengths: environment steps of each episode, ``[N]`` int64.
        codes: code of each episode, ``[N]`` int64.
        modes: label of each episode, ``[N]`` int64, -1 while undecided; None without a label.
        success: ``[N]`` bool, None where the environment does not say.
    """

    positions: Tensor
    lengths: Tensor
    codes: Tensor
    modes: Tensor | None = None
    success: Tensor | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.lengths)

    def first(self, count: int) -> Paths:
        """Return the first episodes, at most so many."""
        return self._chosen(slice(count))

    def of_codes(self, codes: Sequence[int]) -> Paths:
        """Return the episodes that were played with some codes."""
        return self._chosen(torch.isin(self.codes, self.codes.new_tensor(codes)))

    def _chosen(self, which: slice | Tensor) -> Paths:
        return replace(self, **{name: each[which] for name, each in _tensors(self).items()})


class Trace(Transform):
    """Remembers an entry at every environment step; put it inside of the action chunks.

    Changes nothing. Each full reset begins a new recording, in which a row's later resets begin its
    further episodes; what the environment says between an end and a reset is left out::

        env.insert_transform(0, trace := Trace.of(task, env))
        paths = trace.paths(collect_episodes(env, 400, ...))

    Args:
        key: entry ``[*B, D]``.
        dims: dimensions of it to keep; None keeps all D.
    """

    def __init__(self, key: NestedKey, dims: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.key, self.dims = key, None if dims is None else list(dims)
        # Shared by clones: inserting into a TransformedEnv may clone the transforms it has.
        self._recordings: list[list[tuple[Tensor, Tensor]]] = []

    @classmethod
    def of(cls, task: Task, env: EnvBase) -> Trace:
        """Return the trace of a task's first feature entry; its dimensions count over all."""
        key = (task.layout.features)[0]
        width = env.observation_spec[key].shape[-1]
        dims = task.layout.feature_dims
        return cls(key, dims and (tuple(dim for dim in dims if dim < width) or None))

    def forget(self) -> None:
        """Drop what was recorded so far."""
        self._recordings.clear()

    def paths(self, episodes: Episodes) -> Paths:
        """Join the recordings of episodes and repeat each one's last position from its end on.

        Args:
            episodes: all of the one call of :func:`~modereg.rollouts.iterate_episodes` since the
                trace was made or forgot, with their codes among the final entries, and mode and
                success where there are any.
        """
        lengths = episodes.env_steps.cpu()
        rows = len(self._recordings[0][0][1])
        turns = -(-len(lengths) // rows) // len(self._recordings)  # of a recording
        slots = torch.arange(int(lengths.max()) + 1)
        index = torch.minimum(slots, lengths[:, None]).split(turns * rows)  # [n, T + 1] each
        parts = [_gather(*pair) for pair in zip(self._recordings, index, strict=True)]
        return Paths(
            positions=torch.cat(parts),
            lengths=lengths,
            codes=episodes.final.get(keys.LATENT).cpu(),
            modes=_column(episodes, keys.MODE),
            success=_column(episodes, keys.SUCCESS),
        )

    def _read(self, tensordict: TensorDictBase) -> Tensor:
        value = tensordict.get(self.key)
        value = value if self.dims is None else value[..., self.dims]
        return value.detach().to("cpu", torch.float32, copy=True)

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        values, mask = self._read(tensordict_reset), tensordict.get("_reset", None)
        if mask is None:
            self._recordings.append([])
            mask = values.new_ones(len(values), dtype=torch.bool)
        self._recordings[-1].append((values, mask.flatten().cpu()))
        return tensordict_reset

    _reset_on_native_autoreset = _reset

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        values = self._read(next_tensordict)
        self._recordings[-1].append((values, values.new_zeros(len(values), dtype=torch.bool)))
        return next_tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the tensordict as it is."""
        return tensordict


def _gather(recording: Sequence[tuple[Tensor, Tensor]], index: Tensor) -> Tensor:
    """Return the values of the first n episodes of a recording, ``[n, T, D]``.

    Args:
        recording: values ``[B, D]``, and which rows ``[B]`` begin with them: none at a step. Its
            episode k is number k // B of row k % B.
        index: which values of each episode, counted from its beginning, ``[n, T]``.
    """
    values, begins = (torch.stack(each) for each in zip(*recording, strict=True))
    kept = begins | ~begins.any(1, keepdim=True)  # a reset is none of the other rows' steps
    found, count = values.new_empty(*index.shape, values.shape[-1]), begins.shape[1]
    for row in range(min(count, len(index))):
        mine, chosen = kept[:, row], index[row::count]
        first = begins[mine, row].nonzero()[: len(chosen)]  # [turns, 1]
        found[row::count] = values[mine, row][first + chosen]
    return found


def _column(episodes: Episodes, key: NestedKey) -> Tensor | None:
    value = episodes.final.get(key, None)
    return None if value is None else value.squeeze(-1).cpu()


@dataclass(frozen=True)
class KeptPaths:
    """Episodes of a file.

    Attributes:
        paths: the first of the episodes.
        figures: of all of them: a :class:`~modereg.metrics.BehaviourMetrics` as dict, perhaps more.
        seed: of the episodes.
    """

    paths: Paths
    figures: Mapping[str, Any]
    seed: int


def path_key(
    task: Task,
    options: Mapping[str, Any],
    num_envs: int,
    base: str,
    steering: nn.Module | None = None,
) -> dict[str, Any]:
    """Return what episodes depend on besides their seed, as JSON has it.

    Args:
        task: the task, with the features that are seen.
        options: what the task was made with.
        num_envs: environments of a batch, each with its own part of the seed.
        base: fingerprint of the base policy.
        steering: writes the noise; None is the base policy itself.
    """
    features = [str(key) for key in task.layout.features]
    return {
        "modereg": version("modereg"),
        "task": [
            task.name,
            dict(options),
            task.layout.max_steps,
            task.layout.execute,
            task.layout.offset,
        ],
        "features": [
            features,
            None if task.layout.feature_dims is None else list(task.layout.feature_dims),
        ],
        "num_envs": num_envs,
        "base": base,
        "steering": None if steering is None else fingerprint(steering),
    }


def save_paths(
    folder: Path, key: Mapping[str, Any], paths: Paths, figures: Mapping[str, Any], *, seed: int
) -> Path:
    """Keep episodes in a folder, at most 400 of them and 16 megabytes, atomically.

    Args:
        folder: of the run that they are of, or of the base's.
        key: of :func:`path_key`.
        paths: the episodes.
        figures: what they were judged as, JSON-able, with ``episodes``, how many were.
        seed: of the episodes.

    Returns:
        The file, in the format of safetensors.
    """
    each = paths.positions[0].numel()
    kept = _tensors(paths.first(min(KEPT, max(1, NUMBERS // each))))
    kept = {name: value.contiguous() for name, value in kept.items()}
    about = {"key": key, "figures": figures, "seed": seed}
    text = json.dumps(about, sort_keys=True, allow_nan=False)
    path = _file(folder, key)
    write_atomic(path, save(kept, {"about": text, "digest": _digest(text, kept)}))
    return path


def load_paths(
    folder: Path,
    key: Mapping[str, Any],
    *,
    seed: int | None = None,
    judged: int = 0,
) -> KeptPaths | None:
    """Return episodes that :func:`save_paths` kept, None where there are none of that kind.

    Args:
        folder: where to look.
        key: of :func:`path_key`.
        seed: of the episodes; None takes those of any.
        judged: number of episodes that the figures must be of, at least.

    Raises:
        CheckpointError: if the file is cut short, altered or foreign.
    """
    path = _file(folder, key)
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            found = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error)) from None
    if found.get("digest") != _digest(found.get("about", ""), tensors):
        raise _damaged(path, "one whose digest does not fit")
    about = json.loads(found["about"])
    enough = about["figures"]["episodes"] >= judged and seed in (None, about["seed"])
    return KeptPaths(Paths(**tensors), about["figures"], about["seed"]) if enough else None


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"expected kept episodes in {path}, got a damaged file ({what}); delete it, and they are "
        "rolled out again"
    )


def _file(folder: Path, key: Mapping[str, Any]) -> Path:
    """Return a file that other episodes in the folder do not share."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return Path(folder) / f"paths-{digest[:16]}.safetensors"


def _tensors(paths: Paths) -> dict[str, Tensor]:
    values = {name: getattr(paths, name) for name in TENSORS}
    return {name: value for name, value in values.items() if value is not None}


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"|{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
