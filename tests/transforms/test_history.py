"""History against the list of what has been seen."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchrl.envs import StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs

from modereg.errors import ConfigurationError, KeyMismatchError, ShapeError
from modereg.testing import CountingEnv
from modereg.transforms import ActionChunk, History


def expected(seen: list[torch.Tensor], length: int) -> torch.Tensor:
    """Repeat the latest value; of longer episodes keep the latest ones."""
    kept = seen[-length - 1 :]
    return torch.cat(kept + [seen[-1]] * (length + 1 - len(kept)))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 6), st.integers(1, 3))
def test_the_history_is_the_list_of_boundaries(lengths: list[int], length: int, execute: int):
    env = TransformedEnv(CountingEnv(lengths), ActionChunk(execute))
    env.append_transform(History(length=length, overflow="window"))
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
    env = TransformedEnv(CountingEnv([9, 9]), History(("observation",), "past", length=3, dims=[0]))
    data = env.rollout(3)
    assert data["next", "past"][0].tolist() == [[0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize("batch_wide", [True, False])
def test_an_episode_that_outlives_the_history_is_refused(batch_wide: bool):
    lengths = [6, 6] if batch_wide else [2, 6]
    env = TransformedEnv(CountingEnv(lengths), History(length=5))
    with pytest.raises(ConfigurationError, match=r"at most 5 decisions, got \d that go on; give"):
        env.rollout(9, break_when_any_done=False)
    enough = TransformedEnv(CountingEnv(lengths), History(length=6))
    assert enough.rollout(20, break_when_any_done=False).shape[-1] == 20


def test_rows_that_have_ended_may_be_stepped_on():
    env = TransformedEnv(CountingEnv([2, 4]), History(length=4))
    td = env.reset()
    for _ in range(6):
        td = env.step_mdp(env.step(env.rand_action(td)))
    assert td["history_length"].flatten().tolist() == [6, 6]
    assert td["history"][1, :-3:3].tolist() == [0, 1, 2, 3]


def test_integers_are_remembered_as_floats():
    env = TransformedEnv(CountingEnv([9]), StepCounter())
    env.append_transform(History(["step_count", "observation"], length=3))
    env.append_transform(History(["step_count"], "counts", length=3))
    check_env_specs(env)
    assert env.rollout(2)["next", "counts"].tolist() == [[[0, 1, 1, 1], [0, 1, 2, 2]]]


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ConfigurationError, match="positive length"):
        History(length=0)
    with pytest.raises(ConfigurationError, match="'raise' or 'window', got 'forget'"):
        History(length=2, overflow="forget")
    with pytest.raises(KeyMismatchError, match="'velocity'"):
        TransformedEnv(CountingEnv([3]), History(["velocity"], length=2))
    with pytest.raises(ShapeError, match=r"dims in \[0, 3\)"):
        TransformedEnv(CountingEnv([3]), History(length=2, dims=[0, 3]))
