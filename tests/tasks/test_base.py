from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from modereg.errors import ConfigurationError, ModeregError, ShapeError
from modereg.layout import Layout
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
    task = Task("bare", Avoid, Layout(20, execute=8))
    assert task.layout.steered_by == task.layout.features == ["observation"]
    assert task.observation_keys == ("observation",)
    assert task.num_modes is None
    assert task.demonstrate is None
    assert task.layout.max_decisions == 3


def test_the_layout_knows_what_is_read_and_may_be_changed_in_part() -> None:
    task = Task("bare", Avoid, Layout(20, execute=8, time_limit="terminates"))
    assert task.layout.steered_by == ["observation", "elapsed"]
    other = task.with_layout(execute=4, feature_dims=(0,))
    assert (other.layout.execute, other.layout.feature_dims) == (4, (0,))
    assert other.layout.steered_by == ["observation", "elapsed"]
    assert task.layout.execute == 8


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"horizon": 8, "execute": 8, "offset": 1}, "at least offset [+] execute = 9 actions"),
        ({"execute": 0}, "expected execute of at least 1, got 0"),
        ({"max_steps": 0}, "expected max_steps of at least 1, got 0"),
        ({"time_limit": "explodes"}, "'terminates' or 'truncates'"),
    ],
)
def test_a_layout_that_cannot_work_is_refused(options: dict, match: str) -> None:
    task = Task("bare", Avoid, Layout(20))
    with pytest.raises(ModeregError, match=match):
        task.with_layout(**options)


def test_mode_names_that_are_too_few_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="names 2 modes"):
        Task("bare", Avoid, Layout(20), num_modes=3, mode_names=("a", "b"))


def test_demonstrations_count_successes_of_decided_modes() -> None:
    assert demonstrations().mode_counts(4).tolist() == [1, 0, 1, 0]


def test_demonstrations_of_unequal_sizes_are_refused() -> None:
    good = demonstrations()
    with pytest.raises(ShapeError, match=r"lengths must have shape \(4,\)"):
        replace(good, lengths=torch.ones(3))
    with pytest.raises(ShapeError, match=r"must start with \(4, 4\)"):
        replace(good, observations={"observation": torch.zeros(4, 3, 2)})
