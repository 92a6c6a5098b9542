"""Windows of decisions and their returns, by hand, and what learners make of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.learners.config import DSRLConfig, ResidualConfig, SACConfig
from modereg.learners.nstep import Windows, folded
from modereg.learners.replay import ReplayLearner
from tests.learners.made import check_goes_on, make_learner, turn, weights

GAMMA = 0.9


def _numbers(*rows: list[int]) -> TensorDict:
    return TensorDict({"number": torch.tensor(rows)}, [len(rows), len(rows[0])])


def test_all_windows_of_each_row_are_cut_across_batches() -> None:
    windows = Windows(3)
    assert windows.add(_numbers([0, 1], [10, 11])).shape == (0, 3)
    found = windows.add(_numbers([2, 3], [12, 13]))["number"].tolist()
    assert found == [[0, 1, 2], [1, 2, 3], [10, 11, 12], [11, 12, 13]]
    assert windows.add(_numbers([4], [14]))["number"].tolist() == [[2, 3, 4], [12, 13, 14]]
    windows.forget()
    assert len(windows.add(_numbers([5, 6], [15, 16]))) == 0


def _window(done: list[bool], terminated: list[bool]) -> TensorDict:
    """Return one of three decisions of 2, 3 and 4 steps that pay 1, 10 and 100."""
    after = {
        "done": torch.tensor(done),
        "terminated": torch.tensor(terminated),
        keys.REWARD: torch.tensor([1.0, 10.0, 100.0]),
        keys.STEPS: torch.tensor([2, 3, 4]),
        "place": torch.tensor([1, 2, 3]),
        keys.EXECUTED: torch.tensor([0, 1, 2]),
    }
    root = {"place": torch.arange(3)[None, :, None]}
    column = {name: value[None, :, None] for name, value in after.items()}
    return TensorDict({**root, "next": column}, [1, 3])


@pytest.mark.parametrize(
    ("done", "terminated", "reward", "steps", "place"),
    [
        ([0, 0, 0], [0, 0, 0], 1 + GAMMA**2 * 10 + GAMMA**5 * 100, 9, 3),
        ([0, 1, 0], [0, 1, 0], 1 + GAMMA**2 * 10, 5, 2),
        ([0, 1, 1], [0, 0, 1], 1 + GAMMA**2 * 10, 5, 2),  # out of time: bootstrapped from there
        ([1, 0, 1], [1, 0, 0], 1.0, 2, 1),
        ([0, 0, 1], [0, 0, 1], 1 + GAMMA**2 * 10 + GAMMA**5 * 100, 9, 3),
    ],
)
def test_rewards_are_summed_and_discounted_by_environment_steps_until_the_episode_ends(
    done: list[int], terminated: list[int], reward: float, steps: int, place: int
) -> None:
    window = _window(list(map(bool, done)), list(map(bool, terminated)))
    before = window.clone()
    found = folded(window, keys.REWARD, GAMMA)
    assert (window == before).all()
    assert found.shape == (1,)
    assert (int(found["place"]), int(found["next", "place"])) == (0, place)
    assert int(found["next", keys.EXECUTED]) == 0, "what was done is what the first one did"
    assert float(found["next", keys.REWARD]) == pytest.approx(reward)
    assert int(found["next", keys.STEPS]) == steps
    assert bool(found["next", "terminated"]) == bool(terminated[place - 1])


def test_a_window_of_one_is_its_decision() -> None:
    window = _window([False] * 3, [False] * 3)[:, :1]
    assert (folded(window, keys.REWARD, GAMMA) == window[:, 0]).all()


def _sac(**options: Any) -> ReplayLearner:
    return make_learner(SACConfig, on={"coef": 1.0}, **options)


def test_the_critic_is_taught_the_returns_of_what_was_collected() -> None:
    """Each target is compared with a sum along the row that it was collected in."""
    learner = _sac(nstep=3, prefill=8, decisions=6)
    batch = learner.problem.mi_reward(learner.collect())
    learner.update(batch.clone())
    seen: list[TensorDictBase] = []
    critic_loss = learner.loss.critic_loss
    learner.loss.critic_loss = lambda data: seen.append(data.clone()) or critic_loss(data)
    learner.owed = 4.0
    learner._learn(critic_only=True)
    first, key = learner.problem.layout.gamma, ("next", learner.problem.reward_key)
    roots = batch[keys.ACTION]
    for row in torch.cat(seen):
        (env, start), *others = (roots == row[keys.ACTION]).flatten(2).all(2).nonzero().tolist()
        assert not others
        total, elapsed, at = 0.0, 0, start
        while True:
            total += first**elapsed * float(batch[env, at][key])
            elapsed += int(batch[env, at]["next", keys.STEPS])
            if bool(batch[env, at]["next", "done"]) or at == start + 2:
                break
            at += 1
        assert float(row[key]) == pytest.approx(total, abs=1e-5)
        assert int(row["next", keys.STEPS]) == elapsed
        expected = batch[env, at]["next", keys.OBSERVATION]
        assert torch.equal(row["next", keys.OBSERVATION], expected)


@pytest.mark.parametrize("kind", [SACConfig, DSRLConfig, ResidualConfig])
def test_a_state_taken_up_goes_on_bit_for_bit(kind: type[Any]) -> None:
    found = check_goes_on(
        lambda: make_learner(kind, on={"coef": 1.0}, buffer=20, nstep=3), weights, 5
    )
    assert "loss_qvalue" in found[-1]


def test_padding_and_a_number_below_one_are_refused() -> None:
    learner = _sac(nstep=2)
    batch = learner.problem.mi_reward(learner.collect())
    batch[("collector", "mask")] = torch.tensor([True, False]).expand(batch.shape).clone()
    ended = int(batch["next", "done"][:, 0].sum())
    assert ended == 1, "after which padding is no gap"
    with pytest.raises(ConfigurationError, match=r"for nstep=2, got a batch with 3 that are pad"):
        learner.update(batch)
    with pytest.raises(ConfigurationError, match="expected nstep of at least 1, got 0"):
        SACConfig(nstep=0)


def test_more_decisions_than_an_episode_has_are_those_of_a_whole_one() -> None:
    """Windows that are never whole would teach nothing, since a checkpoint lets go of them."""
    found = []
    for nstep in (4, 50):
        learner = _sac(nstep=nstep)
        found.append([turn(learner) for _ in range(6)])
    assert "loss_qvalue" in found[0][-1]
    assert found[1] == found[0]
