from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modereg.errors import ConfigurationError
from modereg.tasks import Demonstrations
from modereg.tasks.experts import assign_modes, collect


class Learner:
    """Fails, then strays into mode 0, then does as it is told; notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, modes: torch.Tensor) -> Demonstrations:
        attempt, num = len(self.asked), len(modes)
        self.asked.append(modes.tolist())
        return Demonstrations(
            observations={"observation": torch.full((num, 3, 1), float(attempt))},
            actions=torch.full((num, 2, 1), float(attempt)),
            lengths=torch.full((num,), attempt),
            modes=modes.clone() if attempt != 1 else torch.zeros_like(modes),
            success=torch.full((num,), attempt > 0),
        )


def test_failed_and_stray_episodes_are_repeated_and_nothing_else() -> None:
    learner, modes = Learner(), torch.tensor([0, 1, 0, 2])
    result = collect(learner, modes, keep_failures=False)
    assert learner.asked == [[0, 1, 0, 2], [0, 1, 0, 2], [1, 2]]
    assert result.modes.tolist() == [0, 1, 0, 2]
    assert result.success.all()
    assert result.lengths.tolist() == [1, 2, 1, 2]
    assert result.actions[:, 0, 0].tolist() == [1.0, 2.0, 1.0, 2.0]
    assert result.observations["observation"][:, 0, 0].tolist() == [1.0, 2.0, 1.0, 2.0]


def test_first_attempts_are_kept_where_asked() -> None:
    learner = Learner()
    assert not collect(learner, torch.tensor([0, 1]), keep_failures=True).success.any()
    assert len(learner.asked) == 1


def test_actions_to_imitate_alone_are_no_trajectories() -> None:
    shown = Learner()(torch.tensor([0]))
    with pytest.raises(ConfigurationError, match="with what was played"):
        shown.trajectories()


@given(
    num=st.integers(0, 200),
    shares=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=8).filter(lambda s: sum(s) > 0.1),
    seed=st.integers(0, 100),
)
def test_counts_are_within_one_of_the_quota(num: int, shares: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    modes = assign_modes(num, len(shares), shares, generator)
    counts = torch.bincount(modes, minlength=len(shares)).double()
    quota = torch.tensor(shares).double() / torch.tensor(shares).double().sum() * num
    assert len(modes) == num
    assert (counts - quota).abs().max() <= 1 + 1e-3


def test_equal_shares_differ_by_one_at_most_and_come_in_random_order() -> None:
    modes = assign_modes(50, 4, None, torch.Generator().manual_seed(0))
    assert sorted(modes.bincount().tolist()) == [12, 12, 13, 13]
    assert not torch.equal(modes, modes.sort().values)


def test_ties_of_their_own_leave_the_order_of_modes_to_the_generator() -> None:
    drawn = torch.Generator().manual_seed(4)
    modes = assign_modes(8, 2, None, drawn, ties=torch.Generator())
    plain = torch.Generator().manual_seed(4)
    assert torch.equal(modes, (torch.arange(8) // 4)[torch.randperm(8, generator=plain)])
    assert torch.equal(drawn.get_state(), plain.get_state())


@pytest.mark.parametrize("shares", [(1, 2), (-1, 1, 1), (0, 0, 0), (float("nan"), 1, 1)])
def test_shares_that_are_none_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="shares of the 3 modes"):
        assign_modes(5, 3, shares, torch.Generator())
