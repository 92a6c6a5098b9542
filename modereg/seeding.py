"""Seeds of generators and environments, and the state of the generators that a run draws from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = [
    "derived_seed",
    "generator_state",
    "isolated_generators",
    "seed_generators",
    "set_generator_state",
]


def derived_seed(seed: int, *parts: int) -> int:
    """Return a seed in [0, 2^31) of a run's seed and further numbers, such as a batch's.

    Zeros at the end do not count: numpy's ``SeedSequence`` reads them as nothing.
    """
    return int(np.random.SeedSequence([seed, *parts]).generate_state(1)[0]) % 2**31


def seed_generators(seed: int) -> None:
    """Seed the global generators of torch, on every device, of numpy and of random."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def generator_state() -> dict[str, Any]:
    """Return the state of the global generators: tensors, numbers and lists alone."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, cached],
        "random": [version, list(numbers), gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_generator_state(state: dict[str, Any]) -> None:
    """Take up a state of :func:`generator_state`."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["random"]
    random.setstate((version, tuple(numbers), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def isolated_generators(seed: int | None = None) -> Iterator[None]:
    """Leave the global generators as they were, whatever is drawn within; seed them at its start.

    Args:
        seed: of what is drawn within; None goes on with the generators as they are.
    """
    before = generator_state()
    try:
        if seed is not None:
            seed_generators(seed)
        yield
    finally:
        set_generator_state(before)
