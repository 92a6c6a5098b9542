from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

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
