"""The subspace of the noise in which a run steers: chosen once, then read from the run."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from modereg.checkpoints import Adapter, load_adapter
from modereg.noise_bases import NoiseBasis, cosine_basis, repeated_basis, response_basis
from modereg.recipes.config import NoiseConfig
from modereg.recipes.events import Advanced, Event, Progressed
from modereg.recipes.features import looking_at
from modereg.recipes.setup import Setup
from modereg.rollouts import collect_episodes
from modereg.seeding import derived_seed, isolated_generators

__all__ = ["choose_subspace", "load_run"]

SUBSPACE = 6
"""Sets the seed of the episodes that are looked at apart from those of other parts of a run."""

FREQUENCIES = 3


def choose_subspace(
    setup: Setup, config: NoiseConfig, seed: int, state: dict[str, Any] | None
) -> Generator[Event, None, Setup]:
    """Return the setup, steered where the options say, or where a run's checkpoint has it.

    The global generators are left as they were.

    Args:
        setup: task and base.
        config: the options.
        seed: of the run.
        state: of the last checkpoint, whose ``noise_basis`` is taken, or None.

    Raises:
        ConfigurationError: if the noise has no such subspace.
    """
    if state is not None:
        return _within(setup, state.get("noise_basis"))
    shape = setup.base.noise_shape
    if config.basis == "all":
        return setup
    if config.basis == "repeated":
        return _within(setup, repeated_basis(shape))
    if config.basis == "cosine":
        return _within(setup, _cosines(shape, config.rank))
    yield Progressed("subspace of the noise")
    with isolated_generators(derived_seed(seed, SUBSPACE)):
        found, spent = _response(setup, config.rank, derived_seed(seed, SUBSPACE, 1))
    row = {"phase": "subspace", "env_steps": spent, "noise_share": found.share}
    yield Advanced("subspace", row | {"noise_dimensions": found.basis.shape[1]}, 1, 1)
    return replace(_within(setup, found.basis.cpu()), spent=spent)


def load_run(folder: Path | str, setup: Setup) -> tuple[Adapter, Setup]:
    """Return the adapter of a run, and the setup that steers where and as it was made to.

    Raises:
        CheckpointError: if a file is missing or damaged, or the base is another one.
        ConfigurationError: if the adapter was made on another layout.
    """
    adapter = load_adapter(Path(folder) / "adapter", setup.base)
    found = {"residual": adapter.residual, "step_residual": adapter.step_residual}
    placed: dict[str, Any] = {
        name: part if part is None else part.to(setup.device) for name, part in found.items()
    }
    placed["tuned"] = adapter.chain(setup.base)
    setup = replace(_within(setup, adapter.layout.noise_basis), **placed)
    if setup.task.layout.feature_dims is None:
        setup = looking_at(setup, adapter.layout.feature_dims)
    adapter.check_layout(setup.layout, Path(folder) / "adapter")
    return adapter, setup


def _within(setup: Setup, basis: Tensor | None) -> Setup:
    return replace(setup, layout=replace(setup.layout, noise_basis=basis))


def _cosines(shape: Sequence[int], rank: int | None) -> Tensor:
    width = math.prod(shape[1:])
    waves = min(FREQUENCIES, shape[0]) if rank is None else -(-rank // width)
    return cosine_basis(shape, waves)[:, :rank]


def _response(setup: Setup, rank: int | None, seed: int) -> tuple[NoiseBasis, int]:
    """Return the directions that the base responds to at states it visits, and the steps taken."""
    env = setup.steered(1)
    env.set_seed(seed)
    read = setup.base.observation_entries(env.fake_tensordict())
    episodes = collect_episodes(env, min(env.batch_size.numel(), 512), keep=read)
    found = response_basis(setup.base, episodes.flat(), setup.layout, rank=rank)
    env.close(raise_if_closed=False)
    return found, episodes.spent
