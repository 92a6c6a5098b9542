"""Devices: where a module lives, and random draws that leave every generator as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn

__all__ = ["across_devices", "forked_generators", "module_device"]


def module_device(module: nn.Module) -> torch.device | None:
    """Return where a module's first parameter or buffer lives; None where it has neither."""
    for tensors in (module.parameters(), module.buffers()):
        for tensor in tensors:
            return tensor.device
    return None


def across_devices(policy: Any) -> Any:
    """Return a policy that may live on another device than the tensordicts that it is given.

    What it reads is moved to it, and what it writes is moved back: for an environment on the CPU
    under a policy on an accelerator. Without parameters or buffers it is returned as it is.

    Args:
        policy: reads and writes a tensordict; its ``in_keys``, if it has any, are what is moved.
    """
    device = module_device(policy) if isinstance(policy, nn.Module) else None
    if device is None:
        return policy

    def act(carrier: TensorDictBase) -> TensorDictBase:
        home = carrier.get("done").device
        if home == device:
            return policy(carrier)
        read = carrier.select(*policy.in_keys) if hasattr(policy, "in_keys") else carrier
        return carrier.update(policy(read.to(device)).to(home))

    return act


@contextmanager
def forked_generators(*devices: torch.device | str | None) -> Iterator[None]:
    """Leave torch's generators after the context as they were before it.

    That of the CPU always, and those of the accelerators among the devices: what a probe or a
    picture draws there must not change what training draws next.

    Args:
        devices: where the context may draw; None and the CPU add nothing.
    """
    places = {torch.device(place) for place in devices if place is not None}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for place in places:
            if place.type not in ("cpu", "meta"):
                stack.enter_context(torch.random.fork_rng(devices=[place], device_type=place.type))
        yield
