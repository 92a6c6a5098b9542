from __future__ import annotations

import pytest
import torch

from modereg.ddiffpg.targets import climb
from modereg.errors import ConfigurationError


def test_actions_climb_to_the_hill_that_they_stand_at() -> None:
    start = torch.tensor([[-0.4], [0.4]])
    found = climb(lambda a: -(a.abs() - 0.7).square().sum(-1), start, steps=60, rate=0.03)
    torch.testing.assert_close(found, torch.tensor([[-0.7], [0.7]]), atol=0.05, rtol=0)
    assert start.flatten().tolist() == pytest.approx([-0.4, 0.4]), "it is not changed in place"


def test_they_stay_within_the_bounds_and_carry_no_graph() -> None:
    found = climb(lambda a: a.sum(-1), torch.zeros(3, 2), steps=60, rate=0.1)
    assert found.tolist() == [[1.0, 1.0]] * 3
    assert not found.requires_grad


def test_rows_do_not_depend_on_each_other() -> None:
    start = torch.randn(6, 3).clamp(-0.5, 0.5)

    def value(actions: torch.Tensor) -> torch.Tensor:
        return actions.sin().prod(-1)

    alone = torch.cat([climb(value, row[None], steps=5) for row in start])
    torch.testing.assert_close(climb(value, start, steps=5), alone)


def test_no_step_moves_nothing_and_bad_numbers_are_refused() -> None:
    assert torch.equal(climb(lambda a: a.sum(-1), torch.zeros(2, 2), steps=0), torch.zeros(2, 2))
    for options in ({"steps": -1}, {"rate": 0.0}):
        with pytest.raises(ConfigurationError, match="steps of at least 0 and a rate above 0"):
            climb(lambda a: a.sum(-1), torch.zeros(2, 2), **options)
