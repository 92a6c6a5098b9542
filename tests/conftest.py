"""What every test runs under: one thread, the same seeds, no display, Vulkan where set up."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.profiles import fix_seeds, use_profiles

os.environ["MPLBACKEND"] = "Agg"

use_profiles(Path(__file__).parent / "regressions")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Draw the same examples at every quick run."""
    fix_seeds(items)


def pytest_configure(config: pytest.Config) -> None:
    """Set one thread for torch, and use the driver that ``make test`` unpacked, if there is one."""
    torch.set_num_threads(1)
    prefix = config.rootpath / ".vulkan"
    if prefix.is_dir():
        from modereg_integrations.maniskill.vulkan import activate

        activate(prefix)


@pytest.fixture(autouse=True)
def seeds() -> Iterator[None]:
    """Start each test from the same random state, and leave no trace in the next one."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        yield
    random.setstate(python)
    np.random.set_state(legacy)
