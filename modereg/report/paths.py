"""Where episodes went, at every environment step: for pictures only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.envs import Transform

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.priors import CategoricalPrior
from modereg.recipes.build import Setup
from modereg.recipes.evaluate import evaluate_policy
from modereg.rollouts import Episodes

__all__ = ["Paths", "Trace", "record_paths"]

Policy = Callable[[TensorDictBase], TensorDictBase]


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


class Trace(Transform):
    """Remembers an entry at every environment step; put it inside of the action chunks.

    Changes nothing. Each full reset begins a new recording; a row's recording is its first
    episode's up to the length of that episode, and whatever the environment says after it.

    Args:
        key: entry ``[*B, D]``.
        dims: dimensions of it to keep; None keeps all D.
    """

    def __init__(self, key: NestedKey, dims: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.key, self.dims = key, None if dims is None else list(dims)
        # Shared by clones: inserting into a TransformedEnv may clone the transforms it has.
        self._recordings: list[list[Tensor]] = []

    @property
    def recordings(self) -> list[Tensor]:
        """A tensor ``[B, T + 1, D]`` for each full reset; T differs between them."""
        return [torch.stack(steps, 1) for steps in self._recordings]

    def _read(self, tensordict: TensorDictBase) -> Tensor:
        value = tensordict.get(self.key)
        value = value if self.dims is None else value[..., self.dims]
        return value.detach().to("cpu", torch.float32, copy=True)

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        if tensordict.get("_reset", None) is None:
            self._recordings.append([self._read(tensordict_reset)])
        return tensordict_reset

    def _reset_on_native_autoreset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return tensordict_reset

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        self._recordings[-1].append(self._read(next_tensordict))
        return next_tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the tensordict as it is."""
        return tensordict


def record_paths(
    setup: Setup,
    steering: Policy | None,
    prior: CategoricalPrior | int,
    *,
    num_episodes: int = 400,
    seed: int,
    deterministic: bool = False,
) -> Paths:
    """Roll out whole episodes as an evaluation does, and keep every position on the way.

    Args:
        setup: task and base policy.
        steering: writes the noise; None is the base policy.
        prior: p(z), or the number of codes.
        num_episodes: N.
        seed: of the episodes; an evaluation with the same seed has the same ones.
        deterministic: whether to steer by the mean noise.

    Raises:
        ConfigurationError: if the task names another number of dimensions than its feature has.
    """
    task = setup.task
    key = (task.feature_keys or task.observation_keys)[0]
    trace = Trace(key, _dims_within(task.feature_dims, setup.env.observation_spec[key].shape[-1]))
    prior = CategoricalPrior(prior) if isinstance(prior, int) else prior
    num_codes = int(prior.num_codes or 1)
    env = setup.steered(prior, 1.0)
    env.insert_transform(0, trace)
    _, episodes = evaluate_policy(
        setup,
        env,
        steering,
        num_codes=num_codes,
        episodes=num_episodes,
        seed=seed,
        deterministic=deterministic,
    )
    paths = _cut(trace.recordings, episodes)
    _check_names(task.feature_names, paths.positions.shape[-1])
    return paths


def _check_names(names: tuple[str, ...] | None, width: int) -> None:
    if names is not None and len(names) != width:
        raise ConfigurationError(
            f"expected a name for each of the {width} kept dimensions of the first feature, got "
            f"{names}; change the task's feature_names"
        )


def _dims_within(dims: tuple[int, ...] | None, width: int) -> tuple[int, ...] | None:
    """Keep the dimensions that lie in the first entry; they count over all entries."""
    return None if dims is None else tuple(dim for dim in dims if dim < width) or None


def _cut(recordings: list[Tensor], episodes: Episodes) -> Paths:
    """Join the recordings and repeat each row's last position from its end on."""
    lengths = episodes.env_steps
    slots = torch.arange(int(lengths.max()) + 1)
    index = torch.minimum(slots, lengths[:, None])  # [N, T + 1]
    parts, start = [], 0
    for recording in recordings:
        rows = index[start : start + len(recording)]
        parts.append(recording[torch.arange(len(rows))[:, None], rows])
        start += len(recording)
    return Paths(
        positions=torch.cat(parts),
        lengths=lengths,
        codes=episodes.final.get(keys.LATENT).cpu(),
        modes=_column(episodes, keys.MODE),
        success=_column(episodes, keys.SUCCESS),
    )


def _column(episodes: Episodes, key: NestedKey) -> Tensor | None:
    value = episodes.final.get(key, None)
    return None if value is None else value.squeeze(-1).cpu()
