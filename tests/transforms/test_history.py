"""History against the list of what has been seen."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchrl.envs import TransformedEnv

from modereg.errors import ConfigurationError, KeyMismatchError, ShapeError
from modereg.testing import CountingEnv
from modereg.transforms import ActionChunk, History


def expected(seen: list[torch.Tensor], length: int) -> torch.Tensor:
    """Repeat the latest value; in longer episodes it replaces the last one."""
    kept = [*seen[:length], seen[-1]] if len(seen) > length else seen
    return torch.cat(kept + [seen[-1]] * (length + 1 - len(kept)))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 6), st.integers(1, 3))
def test_the_history_is_the_list_of_boundaries(lengths: list[int], length: int, execute: int):
    env = TransformedEnv(CountingEnv(lengths), ActionChunk(execute))
    env.append_transform(History(length=length))
    data = env.rollout(8, break_when_any_done=False)
    for row in range(len(lengths)):
        seen = []
        for t in range(8):
            if not seen:
                seen = [data["observation"][row, t]]
            torch.testing.assert_close(data["history"][row, t], expected(seen, length))
            seen.append(data["next", "observation"][row, t])
            torch.testing.assert_close(data["next", "history"][row, t], expected(seen, length))
            assert data["next", "history_length"][row, t] == len(seen) - 1
            if data["next", "done"][row, t]:
                seen = []


def test_only_the_named_dimensions_are_kept():
    env = TransformedEnv(CountingEnv([9, 9]), History(("observation",), "past", length=2, dims=[0]))
    data = env.rollout(3)
    assert data["next", "past"][0].tolist() == [[0, 1, 1], [0, 1, 2], [0, 1, 3]]


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ConfigurationError, match="positive length"):
        History(length=0)
    with pytest.raises(KeyMismatchError, match="'velocity'"):
        TransformedEnv(CountingEnv([3]), History(["velocity"], length=2))
    with pytest.raises(ShapeError, match=r"dims in \[0, 3\)"):
        TransformedEnv(CountingEnv([3]), History(length=2, dims=[0, 3]))
