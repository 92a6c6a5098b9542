from __future__ import annotations

import torch
from torch import nn

from modereg.devices import forked_generators, module_device


def test_the_device_of_a_module_is_that_of_what_it_holds() -> None:
    assert module_device(nn.Identity()) is None
    assert module_device(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    normal = nn.Module()
    normal.register_buffer("scale", torch.ones(1))
    assert module_device(normal) == torch.device("cpu")


def test_what_is_drawn_within_leaves_no_trace() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with forked_generators(None, "cpu", "meta"):
        torch.rand(7)
    assert torch.equal(torch.rand(4), expected)
