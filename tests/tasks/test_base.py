from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from modereg.errors import ConfigurationError, ShapeError
from modereg.tasks import Avoid, Demonstrations, Task


def demonstrations(num: int = 4, steps: int = 3) -> Demonstrations:
    return Demonstrations(
        observations={"observation": torch.arange(num * (steps + 1) * 2.0).view(num, steps + 1, 2)},
        actions=torch.randn(num, steps, 2),
        lengths=torch.full((num,), steps),
        modes=torch.tensor([0, 2, 2, -1]),
        success=torch.tensor([True, True, False, True]),
    )


def test_only_the_environment_is_required() -> None:
    task = Task(name="bare", make_env=Avoid, max_steps=20)
    assert task.steering_keys == task.feature_keys == task.observation_keys == ("observation",)
    assert task.num_modes is None
    assert task.demonstrate is None
    assert task.max_decisions == 3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"horizon": 8, "execute": 8, "offset": 1}, "actions 1 to 8 of chunks of 8"),
        ({"execute": 0}, "execute >= 1"),
        ({"max_steps": 0}, "max_steps >= 1"),
        ({"num_modes": 3, "mode_names": ("a", "b")}, "names 2 modes"),
        ({"time_limit": "explodes"}, "'terminates' or 'truncates'"),
    ],
)
def test_a_layout_that_cannot_work_is_refused(options: dict, match: str) -> None:
    task = Task(name="bare", make_env=Avoid, max_steps=20)
    with pytest.raises(ConfigurationError, match=match):
        replace(task, **options)


def test_demonstrations_count_successes_of_decided_modes() -> None:
    assert demonstrations().mode_counts(4).tolist() == [1, 0, 1, 0]


def test_demonstrations_select_by_index_and_by_mask() -> None:
    all_of_them = demonstrations()
    chosen = all_of_them.select(torch.tensor([2, 0]))
    assert len(chosen) == 2
    assert chosen.modes.tolist() == [2, 0]
    assert torch.equal(chosen.actions[1], all_of_them.actions[0])
    assert len(all_of_them.select(all_of_them.success)) == 3


def test_demonstrations_of_unequal_sizes_are_refused() -> None:
    good = demonstrations()
    with pytest.raises(ShapeError, match=r"lengths must have shape \(4,\)"):
        replace(good, lengths=torch.ones(3))
    with pytest.raises(ShapeError, match=r"must start with \(4, 4\)"):
        replace(good, observations={"observation": torch.zeros(4, 3, 2)})
