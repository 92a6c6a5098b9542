"""The single steps of decisions: what they see and lead to, what they are paid, when they end."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from modereg import keys
from modereg.decoding import ChunkDecoder, find_transform
from modereg.errors import ConfigurationError
from modereg.learners.base import Problem
from modereg.single_steps import StepRecorder, next_base_action
from modereg.transforms import ActionChunk, MIReward
from tests.learners.made import problem

READ = [keys.OBSERVATION, keys.LATENT, keys.LATENT_FEATURES, keys.HISTORY]
MOVE = 0.05


def _recorder(on: Problem) -> StepRecorder:
    """Let the environment play what moves by :data:`MOVE` and says what it read."""

    def move(state: TensorDictBase) -> Tensor:
        state.set("seen", state[keys.OBSERVATION].clone())
        return state[keys.BASE_ACTION] + MOVE

    made = StepRecorder(move, READ, written=["seen"])
    find_transform(on.env, ActionChunk).set_mover(made, made.rewarded)
    return made


def _collected(on: Problem, decisions: int = 4) -> tuple[TensorDictBase, TensorDict]:
    """Return decisions ``[4, T]``, and their steps ``[4, T * 3]``."""
    recorder = _recorder(on)
    batch = on.make_collector(decisions, whole=True).rollout()
    draw = next_base_action(ChunkDecoder(on.env), on.steering)
    return batch, recorder.write(batch, draw)


def test_each_step_sees_what_the_one_before_led_to() -> None:
    """Of an environment whose first observation counts the steps of the episode."""
    batch, steps = _collected(problem())
    mask, after = steps["collector", "mask"], steps["next"]
    assert steps.shape == (4, 12)
    assert int(mask.sum()) == int(batch["next", keys.STEPS].sum())
    count = steps[keys.OBSERVATION][..., 0]
    assert torch.equal(after[keys.OBSERVATION][..., 0][mask], count[mask] + 1)
    follows = mask[:, 1:] & ~after["done"][:, :-1].squeeze(-1)
    for key in (*READ, keys.BASE_ACTION):
        assert torch.equal(after[key][:, :-1][follows], steps[key][:, 1:][follows]), key
    begins = mask[:, 1:] & after["done"][:, :-1].squeeze(-1) & mask[:, :-1]
    assert bool(begins.any())
    assert bool((count[:, 1:][begins] == 0).all())
    assert torch.equal(steps["seen"], steps[keys.OBSERVATION])


def test_they_end_where_their_decision_does_and_what_was_not_played_is_padding() -> None:
    batch, steps = _collected(problem())
    number = batch["next", keys.STEPS].squeeze(-1)
    for row in range(4):
        for decision in range(4):
            n, part = int(number[row, decision]), steps[row, 3 * decision : 3 * decision + 3]
            assert part["collector", "mask"].tolist() == [place < n for place in range(3)]
            for flag in ("done", "terminated"):
                ended = bool(batch["next", flag][row, decision])
                expected = [ended and place == n - 1 for place in range(n)] + [True] * (3 - n)
                assert part["next", flag].flatten().tolist() == expected
    assert (number < 3).any()


def test_the_rewards_of_steps_sum_to_those_of_decisions() -> None:
    on = problem()
    batch, steps = _collected(on)
    discounts = on.layout.gamma ** torch.arange(3)
    reward = steps["next", keys.REWARD].reshape(4, 4, 3)
    torch.testing.assert_close((reward * discounts).sum(-1), batch["next", keys.REWARD][..., 0])
    assert bool((steps["next", keys.STEPS] == 1).all())


@pytest.mark.parametrize("timing", ["difference", "final"])
def test_the_intrinsic_rewards_of_steps_sum_to_those_of_decisions(timing: str) -> None:
    """Discounted from the decision's root, though each is paid as a transition of its own."""
    on = problem(coef=1.0)
    pays = MIReward(on.mi_reward.estimator, timing=timing, gamma=on.layout.gamma)
    batch, steps = _collected(on)
    paid = pays(steps)["next", keys.MI_REWARD].reshape(4, 4, 3)
    total = (paid * on.layout.gamma ** torch.arange(3)).sum(-1)
    expected = pays(batch)["next", keys.MI_REWARD][..., 0]
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)
    assert float(expected.abs().max()) > 0.0


def test_what_is_played_is_the_bases_action_moved_and_clipped() -> None:
    batch, steps = _collected(problem())
    mask = steps["collector", "mask"]
    within = batch["next", keys.CHUNK][..., :3, :].clamp(-0.5, 0.5).reshape(4, 12, 1, 2)
    assert torch.equal(steps[keys.BASE_ACTION][mask], within[mask])
    played = steps["next", keys.PLAYED]
    assert torch.equal(played[mask], (within[mask] + MOVE).clamp(-0.5, 0.5))
    assert torch.equal(played, batch["next", keys.EXECUTED].reshape(4, 12, 1, 2))
    free = (within.abs() < 0.5).all(-1).squeeze(-1) & mask
    assert bool(free.any())


def test_the_base_is_drawn_anew_where_no_decision_followed() -> None:
    on = problem()
    recorder = _recorder(on)
    batch = on.make_collector(2, whole=True).rollout()
    asked: list[TensorDictBase] = []

    def draw(states: TensorDictBase) -> Tensor:
        asked.append(states)
        return torch.full((len(states), 1, 2), 0.25)

    steps = recorder.write(batch, draw)
    goes_on = ~batch["next", "terminated"][:, -1].squeeze(-1)
    assert torch.equal(asked[0][keys.OBSERVATION], batch["next", keys.OBSERVATION][goes_on, -1])
    last = steps["next", keys.BASE_ACTION][goes_on, -1]
    assert bool((last == 0.25).all())
    assert not bool((steps["next", keys.BASE_ACTION][:, :3] == 0.25).any())


def test_a_batch_of_other_decisions_and_one_without_rewards_are_refused() -> None:
    on = problem()
    recorder = _recorder(on)
    batch = on.make_collector(2, whole=True).rollout()
    with pytest.raises(ConfigurationError, match="a batch of the 2 decisions .* got one of 1"):
        recorder.write(batch[:, :1], lambda _: torch.zeros(()))
    chunk = find_transform(on.env, ActionChunk)
    chunk.set_mover(recorder)
    batch = on.make_collector(1, whole=True).rollout()
    with pytest.raises(ConfigurationError, match="expected the rewards of each decision, got none"):
        recorder.write(batch, lambda _: torch.zeros(()))
