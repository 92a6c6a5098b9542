from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from modereg.tasks.experts import assign_modes


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
