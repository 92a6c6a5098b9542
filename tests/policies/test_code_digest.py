"""Fingerprints of functions: equal for equal code and values, and for nothing else."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modereg.errors import (
    ConfigurationError,
)
from modereg.policies.code_digest import code_digest
from tests.policies.made import policy


def closing(value: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function whose code is the same whatever it closes over."""

    def decode(noise: Tensor, observation: Tensor) -> Tensor:
        return noise if value is None else noise

    return decode


class Scaled:
    """An object with a method, as users have them."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def decode(self, noise: Tensor, observation: Tensor, power: int = 1) -> Tensor:
        return self.scale * noise**power


class Net(nn.Module):
    """A module with a plain attribute and a hook's place."""

    def __init__(self, seed: int = 0, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear, self.gain = nn.Linear(2, 2), gain

    def forward(self, noise: Tensor, observation: Tensor) -> Tensor:
        return self.gain * self.linear(noise)


DIFFERENT: dict[str, list[Callable[..., Any]]] = {
    "constants": [lambda w, o: w * 0.5, lambda w, o: w * 0.25, lambda w, o: w * -0.0],
    "operations": [lambda w, o: w + 1, lambda w, o: w - 1],
    "attributes": [lambda w, o: w.sin(), lambda w, o: w.cos()],
    "nested functions": [
        lambda w, o: (lambda x: x + 1)(w),
        lambda w, o: (lambda x: x + 2)(w),
        lambda w, o: [x + 2 for x in w],
    ],
    "defaults": [lambda w, o, k=1: w * k, lambda w, o, k=2: w * k, lambda w, o, *, k=2: w * k],
    "plain values": [closing(v) for v in (None, 1, 1.0, True, "1", b"1", (1,), [1], {1}, {1: 2})],
    "tensors": [
        closing(v)
        for v in (torch.zeros(2), torch.ones(2), torch.zeros(2, 1), torch.zeros(2).double())
    ],
    "arrays": [closing(v) for v in (np.zeros(2), np.ones(2), np.zeros(2, np.float32))],
    "modules": [closing(v) for v in (Net(), Net(seed=1), Net(gain=2.0), Net().linear)],
    "functions": [closing(v) for v in (torch.sin, torch.cos, abs, lambda: 1, lambda: 2)],
    "bound methods": [Scaled(1.0).decode, Scaled(2.0).decode],
    "partials": [functools.partial(Scaled(1.0).decode, power=p) for p in (1, 2)],
    "callables": [Net(), Net(seed=1), Net(gain=2.0)],
    "types": [closing(v) for v in (torch.float32, torch.float64, torch.device("cpu"), Net, Scaled)],
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_functions_have_different_fingerprints(name: str) -> None:
    prints = [policy(function).fingerprint() for function in DIFFERENT[name]]
    assert len(set(prints)) == len(prints)
    again = [policy(function).fingerprint() for function in DIFFERENT[name]]
    assert again == prints


def test_equal_functions_have_equal_ones_wherever_they_stand() -> None:
    assert code_digest(lambda w, o: w * 0.5) == code_digest(lambda w, o: w * 0.5)
    assert code_digest(closing([1, {"a": 2}])) == code_digest(closing([1, {"a": 2}]))
    assert code_digest(Scaled(3.0).decode) == code_digest(Scaled(3.0).decode)
    assert code_digest(Net()) == code_digest(Net().eval().requires_grad_(False))
    assert code_digest(Net()) == code_digest(torch.compile(Net(), backend="eager"))


SCRIPT = """
import functools
from enum import Enum
import numpy as np, torch
from torch import nn
from modereg import as_generative_policy

class Kind(Enum):
    A = 1

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.names = nn.Linear(2, 2), frozenset({"x", "y", "zeta"})
    @property
    def gain(self):
        return helper(2.0)
    def forward(self, noise, observation):
        return self.gain * self.linear(noise)

def helper(x):
    return x if x > 0 else helper(-x)

net, array = Net(), np.arange(3.0)

@torch.no_grad()
def decode(noise, observation, *, kind=Kind.A):
    assert kind in {Kind.A} and "x" in {"x", "y", "zeta"}
    return net(noise, observation) + float(array.sum()) + helper(1.0)

made = as_generative_policy(
    functools.partial(decode), in_keys=["observation"], noise_shape=(4, 2), chunk_shape=(4, 2),
    module=net,
)
print(made.fingerprint())
"""


def test_equal_code_in_another_process_has_an_equal_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCRIPT)
    found = []
    for seed, command in enumerate(["mine.py", "-c import mine"]):
        run = subprocess.run(
            [sys.executable, *command.split(" ", 1)],
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": _path(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(run.stdout)
    assert len(set(found)) == 1
    (tmp_path / "mine.py").write_text(SCRIPT.replace("x if x > 0", "x if x > 1"))
    command = [sys.executable, "mine.py"]
    environment = {**os.environ, "PYTHONPATH": _path(tmp_path)}
    changed = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert changed.stdout not in found
    assert changed.returncode == 0


def _path(folder: Path) -> str:
    return os.pathsep.join([str(folder), *filter(None, sys.path)])


def test_a_changed_helper_and_a_changed_weight_change_the_fingerprint() -> None:
    space: dict[str, Any] = {}
    exec("def helper(x): return x + 1\ndef decode(w, o): return helper(w)", space)
    before = policy(space["decode"]).fingerprint()
    exec("def helper(x): return x + 2", space)
    assert policy(space["decode"]).fingerprint() != before
    net = Net()
    made = policy(lambda w, o: 2 * net(w, o))
    before = made.fingerprint()
    with torch.no_grad():
        net.linear.bias += 1
    assert made.fingerprint() != before


def test_decorators_of_libraries_count_by_name_and_by_what_they_wrap() -> None:
    def of(scale: float, decorate: Any) -> str:
        return code_digest(decorate(lambda w, o: scale * w))

    compiled = functools.partial(torch.compile, backend="eager")
    for decorate in (torch.no_grad(), functools.lru_cache, compiled):
        assert of(1.0, decorate) == of(1.0, decorate)
        assert of(1.0, decorate) != of(2.0, decorate)
    assert of(1.0, torch.no_grad()) != of(1.0, torch.enable_grad())


def test_a_library_counts_by_name_in_whichever_environment_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from threading import Lock\nlock = Lock()\ndef half(w):\n    return lock and w / 2\n"
    for folder, name in (("site-packages", "installed_there"), ("work", "own_module")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path / folder)
    installed = importlib.import_module("installed_there")
    assert code_digest(lambda w, o: installed.half(w)) == code_digest(
        lambda w, o: installed.half(w)
    )
    assert code_digest(closing(installed.half))
    own = importlib.import_module("own_module")
    with pytest.raises(ConfigurationError, match="can be digested"):
        code_digest(closing(own.half))


@pytest.mark.parametrize(
    "value", [threading.Lock(), (i for i in range(3)), torch.ones(2, device="meta")]
)
def test_what_has_no_value_is_refused_with_the_way_out(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"can be digested.*name='my_policy'"):
        policy(closing(value)).fingerprint()
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        policy(closing(nested)).fingerprint()


def test_values_that_hold_themselves_end() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    other: list[Any] = [2]
    other.append(other)
    assert code_digest(closing(loop)) != code_digest(closing(other))
