from __future__ import annotations

from functools import partial

import torch

from modereg.tasks.experts import demonstrate
from modereg_integrations.mujoco import FrankaKitchen
from modereg_integrations.mujoco.kitchen.expert import lead_in_order


def test_every_order_of_three_is_shown() -> None:
    shown = demonstrate(FrankaKitchen, lead_in_order, 6, 6, 0, action_noise=0.03)
    assert shown.success.all()
    assert shown.modes.sort().values.tolist() == list(range(6))
    assert shown.lengths.max() <= 280
    assert (shown.actions.abs() <= 1).all()


def test_all_four_in_an_order_at_the_first_attempt() -> None:
    lead = partial(lead_in_order, spread=0.004)
    make = partial(FrankaKitchen, subtasks=4)
    shares = torch.eye(24)[17]
    shown = demonstrate(make, lead, 24, 1, 0, shares, action_noise=0.0, keep_failures=True)
    assert shown.success.all()
    assert shown.modes.tolist() == [17]
