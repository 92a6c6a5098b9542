"""LeRobot has an environment of its own; elsewhere what needs it is not collected."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tensordict import TensorDict

NEED_LEROBOT = ["test_flows.py", "test_page.py", "test_policy.py", "test_samplers.py"]
NEED_LEROBOT += ["test_saving.py", "test_steering.py"]
INSTALLED = find_spec("lerobot") is not None
collect_ignore = [] if INSTALLED else NEED_LEROBOT

if INSTALLED:  # before anything reads them
    HUB = TemporaryDirectory()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": HUB.name}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"a test touches the network: {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.integrations.lerobot import tiny

    return tiny.write_backbone(tmp_path_factory.mktemp("smolvlm"))


@pytest.fixture(scope="session")
def pi0_sizes() -> Iterator[None]:
    """Keep PI0 small, and its tokenizer at hand."""
    from tests.integrations.lerobot import tiny

    tiny.write_hub(Path(HUB.name))
    with tiny.small_pi0():
        yield


Made = tuple[tuple[Any, Any, Any], TensorDict]


@pytest.fixture
def make(backbone: Path, pi0_sizes: None) -> Callable[..., Made]:
    """Return what makes a policy with its processors, and observations for it, by a name."""
    from tests.integrations.lerobot import tiny

    top, wrist = "observation.images.top", "observation.images.wrist"

    def make(kind: str, **options: Any) -> Made:
        if kind == "diffusion":
            return tiny.make_diffusion(**options), tiny.make_observations(history=2, environment=5)
        if kind == "diffusion of images":
            made = tiny.make_diffusion(top, environment=0, n_obs_steps=1, **options)
            return made, tiny.make_observations()
        if kind == "smolvla":
            return tiny.make_smolvla(backbone, top, wrist, **options), tiny.make_observations()
        return tiny.make_pi0(top, wrist, **options), tiny.make_observations()

    return make
